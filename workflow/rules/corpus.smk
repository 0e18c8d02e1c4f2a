localrules:
    corpus_fetch,


rule corpus_fetch:
    input:
        spec=f"{R}/data/sources/specs/{{source}}.yaml",
    output:
        f"{R}/data/sources/{{source}}.json",
    log:
        f"{R}/data/sources/logs/{{source}}.log",
    benchmark:
        f"{R}/data/sources/benchmarks/{{source}}.tsv"
    message:
        "corpus fetch {wildcards.source}"
    shell:
        f"dataeff corpus fetch --spec {{input.spec}} --cache {study_of.cache_folder(study)} --out {{output}} > {{log}} 2>&1"


rule corpus:
    input:
        spec=f"{D}/specs/corpus.yaml",
        sources=expand(f"{R}/data/sources/{{source}}.json", source=study.sources),
    output:
        card=f"{D}/corpus.json",
        shards=expand(
            f"{D}/shards/{{shard}}.jsonl.zst", shard=study_of.shard_names(study)
        ),
        heldout=f"{D}/heldout/manifest.json",
    log:
        f"{D}/logs/corpus.log",
    benchmark:
        f"{D}/benchmarks/corpus.tsv"
    resources:
        mem_mb=2500,
    message:
        "corpus build"
    shell:
        f"dataeff corpus build --spec {{input.spec}} --sources {{input.sources}} --out {D} > {{log}} 2>&1"
