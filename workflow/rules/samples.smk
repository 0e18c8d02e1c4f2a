TOKENS = expand(f"{T}/tokens/{{shard}}", shard=study_of.shard_names(study))
TOKEN_FILES = expand("{prefix}{suffix}", prefix=TOKENS, suffix=[".bin", ".idx"])


rule samples:
    input:
        spec=f"{D}/specs/samples-{study.scale.tokenizer}-{{item}}.yaml",
        tokens=TOKEN_FILES,
    output:
        multiext(
            f"{T}/{{item}}/samples/",
            "samples.json",
            "doc_idx.npy",
            "sample_idx.npy",
            "shuffle_idx.npy",
        ),
    log:
        f"{T}/{{item}}/logs/samples.log",
    benchmark:
        f"{T}/{{item}}/benchmarks/samples.tsv"
    resources:
        mem_mb=1500,
    params:
        prefixes=TOKENS,
    message:
        "samples {wildcards.item}"
    shell:
        f"dataeff samples --spec {{input.spec}} --tokens {{params.prefixes}} --out {T}/{{wildcards.item}}/samples > {{log}} 2>&1"
