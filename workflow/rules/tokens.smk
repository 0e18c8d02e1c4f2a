rule tokens_train:
    input:
        spec=f"{D}/specs/tokens-{study.scale.tokenizer}.yaml",
        source=(
            f"{R}/data/sources/tokenizer_{study.scale.tokenizer}.json"
            if study_of.fetches_tokenizer(study)
            else rules.corpus.output.shards
        ),
    output:
        f"{T}/tokenizer/tokenizer.json",
    log:
        f"{T}/logs/tokens_train.log",
    benchmark:
        f"{T}/benchmarks/tokens_train.tsv"
    resources:
        mem_mb=2500,
    message:
        "tokens train"
    shell:
        f"dataeff tokens train --spec {{input.spec}} --source {{input.source}} --out {T}/tokenizer > {{log}} 2>&1"


rule tokens:
    input:
        tokenizer=rules.tokens_train.output,
        shard=f"{D}/shards/{{shard}}.jsonl.zst",
    output:
        multiext(f"{T}/tokens/{{shard}}", ".bin", ".idx"),
    log:
        f"{T}/logs/tokens-{{shard}}.log",
    benchmark:
        f"{T}/benchmarks/tokens-{{shard}}.tsv"
    resources:
        mem_mb=1500,
    message:
        "tokens encode {wildcards.shard}"
    shell:
        f"dataeff tokens encode --shard {{input.shard}} --tokenizer {T}/tokenizer"
        f" --out {T}/tokens/{{wildcards.shard}} > {{log}} 2>&1"
