"""Data that tasks take their items from: fetched where there is a network, before anything is trained."""


localrules:
    datasets,
    datasets_ready,
    fetch_eval,


rule datasets:
    input:
        spec=f"{R}/data/datasets/specs/{{dataset}}.yaml",
    output:
        f"{R}/data/datasets/{{dataset}}.json",
    log:
        f"{R}/data/datasets/logs/{{dataset}}.log",
    benchmark:
        f"{R}/data/datasets/benchmarks/{{dataset}}.tsv"
    priority: 10
    message:
        "datasets {wildcards.dataset}"
    shell:
        f"dataeff fetch-eval --spec {{input.spec}} --cache {study_of.cache_folder(study)} --out {{output}} > {{log}} 2>&1"


# What training waits for, by one file: naming the datasets there would train anew with every task that is added.
rule datasets_ready:
    input:
        expand(rules.datasets.output, dataset=study.datasets),
    output:
        touch(f"{S}/datasets.ready"),
    priority: 10
    message:
        f"datasets of scale {study.scale_name}"


rule fetch_eval:
    input:
        rules.datasets_ready.output,
    message:
        "all data of tasks are at hand"
