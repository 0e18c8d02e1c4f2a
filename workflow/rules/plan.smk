def samples_of(wildcards):
    return expand(rules.samples.output, item=study_of.data_item(study, wildcards.run))


def indexes_of(wildcards):
    """The files of the difficulty index of every metric that the run selects by."""
    return expand(
        rules.analyze.output,
        item=study_of.data_item(study, wildcards.run),
        metric=study_of.metrics_of(study, wildcards.run),
    )


def folders(files):
    """The folders of files, each once."""
    return list(dict.fromkeys(str(Path(file).parent) for file in files))


rule plan:
    input:
        spec=f"{S}/specs/plan/{{run}}.yaml",
        samples=samples_of,
        indexes=indexes_of,
    output:
        multiext(f"{S}/plan/{{run}}/", "steps.parquet", "order.json", "plan.json"),
    log:
        f"{S}/logs/plan/{{run}}.log",
    benchmark:
        f"{S}/benchmarks/plan/{{run}}.tsv"
    resources:
        mem_mb=1500,
    params:
        samples=lambda wildcards: folders(samples_of(wildcards)),
        indexes=lambda wildcards: folders(indexes_of(wildcards)),
    message:
        "plan {wildcards.run}"
    shell:
        "dataeff plan --spec {input.spec} --samples {params.samples} --index {params.indexes}"
        f" --out {S}/plan/{{wildcards.run}} > {{log}} 2>&1"
