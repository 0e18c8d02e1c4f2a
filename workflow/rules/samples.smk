TOKENS = expand(f"{T}/tokens/{{shard}}", shard=study_of.shard_names(study))


rule samples:
    input:
        spec=f"{D}/specs/samples-{study.scale.tokenizer}-{{item}}.yaml",
        tokens=expand("{prefix}{suffix}", prefix=TOKENS, suffix=[".bin", ".idx"]),
    output:
        f"{T}/{{item}}/samples/samples.json",
    params:
        prefixes=TOKENS,
    log:
        f"{T}/{{item}}/logs/samples.log",
    benchmark:
        f"{T}/{{item}}/benchmarks/samples.tsv"
    resources:
        mem_mb=1500,
    shell:
        f"dataeff samples --spec {{input.spec}} --tokens {{params.prefixes}} --out {T}/{{wildcards.item}}/samples > {{log}} 2>&1"
