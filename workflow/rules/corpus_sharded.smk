"""Each file of one source is a shard, fetched and cleaned by a job of its own."""

SOURCE = study.corpus.sources[0]


localrules:
    corpus_fetch_shard,


rule corpus_fetch_shard:
    input:
        spec=f"{R}/data/sources/specs/{SOURCE}.yaml",
    output:
        f"{R}/data/sources/{SOURCE}/{{shard}}.json",
    log:
        f"{R}/data/sources/logs/{SOURCE}-{{shard}}.log",
    benchmark:
        f"{R}/data/sources/benchmarks/{SOURCE}-{{shard}}.tsv"
    message:
        f"corpus fetch {SOURCE} {{wildcards.shard}}"
    shell:
        f"dataeff corpus fetch_shard --spec {{input.spec}} --shard {{wildcards.shard}}"
        f" --cache {study_of.cache_folder(study)} --out {{output}} > {{log}} 2>&1"


rule corpus_shard:
    input:
        spec=f"{D}/specs/corpus.yaml",
        source=rules.corpus_fetch_shard.output,
    output:
        multiext(f"{D}/shards/{{shard}}", ".jsonl.zst", ".json"),
    log:
        f"{D}/logs/corpus-{{shard}}.log",
    benchmark:
        f"{D}/benchmarks/corpus-{{shard}}.tsv"
    resources:
        **site.job(study.hardware, memory_mb=1500),
    message:
        "corpus shard {wildcards.shard}"
    shell:
        f"dataeff corpus shard --spec {{input.spec}} --source {{input.source}} --shard {{wildcards.shard}} --out {D}"
        " > {log} 2>&1"


rule corpus:
    input:
        spec=f"{D}/specs/corpus.yaml",
        facts=expand(f"{D}/shards/{{shard}}.json", shard=SHARDS),
        sources=expand(
            f"{R}/data/sources/{{source}}.json",
            source=[study.corpus.heldout_from] if study.corpus.heldout_from else [],
        ),
    output:
        card=f"{D}/corpus.json",
        heldout=f"{D}/heldout/manifest.json",
    log:
        f"{D}/logs/corpus.log",
    benchmark:
        f"{D}/benchmarks/corpus.tsv"
    resources:
        **site.job(study.hardware, memory_mb=2500),
    message:
        "corpus card"
    shell:
        f"dataeff corpus card --spec {{input.spec}} --facts {{input.facts}} --sources {{input.sources}} --out {D} > {{log}} 2>&1"
