rule analyze_frequency:
    input:
        samples=rules.samples.output,
        tokens=TOKEN_FILES,
        tokenizer=rules.tokens_train.output,
    output:
        f"{T}/{{item}}/analyze/frequency.npy",
    log:
        f"{T}/{{item}}/logs/analyze_frequency.log",
    benchmark:
        f"{T}/{{item}}/benchmarks/analyze_frequency.tsv"
    resources:
        mem_mb=1500,
    params:
        prefixes=TOKENS,
    message:
        "analyze frequency {wildcards.item}"
    shell:
        f"dataeff analyze frequency --samples {T}/{{wildcards.item}}/samples --tokens {{params.prefixes}}"
        f" --tokenizer {T}/tokenizer --out {{output}} > {{log}} 2>&1"


rule analyze:
    input:
        spec=f"{D}/specs/analyze-{study.scale.tokenizer}-{{item}}-{{metric}}.yaml",
        samples=rules.samples.output,
        tokens=TOKEN_FILES,
        frequency=rules.analyze_frequency.output,
    output:
        multiext(
            f"{T}/{{item}}/analyze/{{metric}}/", "index.json", "value.npy", "order.npy"
        ),
    log:
        f"{T}/{{item}}/logs/analyze-{{metric}}.log",
    benchmark:
        f"{T}/{{item}}/benchmarks/analyze-{{metric}}.tsv"
    resources:
        mem_mb=1500,
    params:
        prefixes=TOKENS,
    message:
        "analyze {wildcards.metric} {wildcards.item}"
    shell:
        f"dataeff analyze metric --spec {{input.spec}} --samples {T}/{{wildcards.item}}/samples --tokens {{params.prefixes}}"
        f" --frequency {{input.frequency}} --out {T}/{{wildcards.item}}/analyze/{{wildcards.metric}} > {{log}} 2>&1"
