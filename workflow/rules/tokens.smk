rule tokens_train:
    input:
        spec=f"{D}/specs/tokens-{{tokenizer}}.yaml",
        source=tokenizer_source_of,
    output:
        f"{D}/{{tokenizer}}/tokenizer/tokenizer.json",
    log:
        f"{D}/{{tokenizer}}/logs/tokens_train.log",
    benchmark:
        f"{D}/{{tokenizer}}/benchmarks/tokens_train.tsv"
    resources:
        **site.job(study.hardware, memory_mb=2500),
    message:
        "tokens train {wildcards.tokenizer}"
    shell:
        "dataeff tokens train --spec {input.spec} --source {input.source}"
        f" --out {D}/{{wildcards.tokenizer}}/tokenizer > {{log}} 2>&1"


rule tokens:
    input:
        tokenizer=rules.tokens_train.output,
        shard=f"{D}/shards/{{shard}}.jsonl.zst",
    output:
        multiext(f"{D}/{{tokenizer}}/tokens/{{shard}}", ".bin", ".idx", ".json"),
    log:
        f"{D}/{{tokenizer}}/logs/tokens-{{shard}}.log",
    benchmark:
        f"{D}/{{tokenizer}}/benchmarks/tokens-{{shard}}.tsv"
    threads: 2
    resources:
        **site.job(study.hardware, memory_mb=1500),
    message:
        "tokens encode {wildcards.tokenizer} {wildcards.shard}"
    shell:
        f"dataeff tokens encode --shard {{input.shard}} --tokenizer {D}/{{wildcards.tokenizer}}/tokenizer --processes {{threads}}"
        f" --out {D}/{{wildcards.tokenizer}}/tokens/{{wildcards.shard}} > {{log}} 2>&1"
