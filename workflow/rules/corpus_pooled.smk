"""All sources together, split into shards."""


rule corpus:
    input:
        spec=f"{D}/specs/corpus.yaml",
        sources=expand(
            f"{R}/data/sources/{{source}}.json", source=study_of.read_sources(study)
        ),
    output:
        card=f"{D}/corpus.json",
        shards=expand(f"{D}/shards/{{shard}}.jsonl.zst", shard=SHARDS),
        heldout=f"{D}/heldout/manifest.json",
    log:
        f"{D}/logs/corpus.log",
    benchmark:
        f"{D}/benchmarks/corpus.tsv"
    resources:
        **site.job(study.hardware, memory_mb=2500),
    message:
        "corpus build"
    shell:
        f"dataeff corpus build --spec {{input.spec}} --sources {{input.sources}} --out {D} > {{log}} 2>&1"
