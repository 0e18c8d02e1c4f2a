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


include: f"corpus_{study.corpus.layout}.smk"
