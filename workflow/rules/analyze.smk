rule analyze_map:
    input:
        spec=f"{D}/specs/{{item}}/analyze-{{metric}}.yaml",
        samples=samples_of,
        tokens=tokens_of,
        tokenizer=tokenizer_files_of,
        frequency=frequency_of,
    output:
        multiext(f"{D}/{{item}}/map/{{metric}}/{{part}}", ".npy", ".json"),
    log:
        f"{D}/{{item}}/logs/analyze_map-{{metric}}-{{part}}.log",
    benchmark:
        f"{D}/{{item}}/benchmarks/analyze_map-{{metric}}-{{part}}.tsv"
    threads: 1
    resources:
        **site.job(study.hardware, memory_mb=1500),
    params:
        prefixes=prefixes_of,
        tokenizer=tokenizer_of,
        frequency=lambda wildcards, input: (
            f"--frequency {input.frequency}" if input.frequency else ""
        ),
    message:
        "analyze map {wildcards.metric} {wildcards.item} {wildcards.part}"
    shell:
        f"dataeff analyze_map --spec {{input.spec}} --samples {D}/{{wildcards.item}}/samples --tokens {{params.prefixes}}"
        f" --tokenizer {{params.tokenizer}} --part {{wildcards.part}} --parts {len(SHARDS)} {{params.frequency}} --threads {{threads}}"
        f" --out {D}/{{wildcards.item}}/map/{{wildcards.metric}} > {{log}} 2>&1"


rule analyze_frequency:
    input:
        parts_of(FREQUENCY),
    output:
        f"{D}/{{item}}/analyze/frequency.npy",
    log:
        f"{D}/{{item}}/logs/analyze_frequency.log",
    benchmark:
        f"{D}/{{item}}/benchmarks/analyze_frequency.tsv"
    resources:
        **site.job(study.hardware, memory_mb=500),
    message:
        "analyze frequency {wildcards.item}"
    shell:
        f"dataeff analyze_frequency --map {D}/{{wildcards.item}}/map/{FREQUENCY} --parts {len(SHARDS)} --out {{output}} > {{log}} 2>&1"


rule analyze:
    input:
        parts_of("{metric}"),
    output:
        multiext(
            f"{D}/{{item}}/analyze/{{metric}}/",
            "index.json",
            "value.npy",
            "order.npy",
            "manifest.json",
        ),
    log:
        f"{D}/{{item}}/logs/analyze-{{metric}}.log",
    benchmark:
        f"{D}/{{item}}/benchmarks/analyze-{{metric}}.tsv"
    resources:
        **site.job(study.hardware, memory_mb=4000),
    message:
        "analyze {wildcards.metric} {wildcards.item}"
    shell:
        f"dataeff analyze_reduce --map {D}/{{wildcards.item}}/map/{{wildcards.metric}} --parts {len(SHARDS)}"
        f" --out {D}/{{wildcards.item}}/analyze/{{wildcards.metric}} > {{log}} 2>&1"


rule analysis:
    input:
        lambda wildcards: study_of.indexes(study, rules.analyze.output),
        card=rules.corpus.output.card,
    message:
        f"difficulty analysis of corpus {study.scale.corpus} for scale {study.scale_name}"
