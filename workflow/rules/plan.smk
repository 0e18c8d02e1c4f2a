def difficulty_indexes(wildcards):
    item = study_of.data_item(study, wildcards.run)
    return [f"{T}/{item}/analyze/{metric}/index.json" for metric in study_of.metrics_of(study, wildcards.run)]


def samples_of(wildcards):
    return f"{T}/{study_of.data_item(study, wildcards.run)}/samples/samples.json"


rule plan:
    input:
        spec=f"{S}/specs/plan/{{run}}.yaml",
        samples=samples_of,
        indexes=difficulty_indexes,
    output:
        multiext(f"{S}/plan/{{run}}/", "steps.parquet", "order.json", "plan.json"),
    params:
        samples=lambda wildcards: Path(samples_of(wildcards)).parent,
        indexes=lambda wildcards: [Path(index).parent for index in difficulty_indexes(wildcards)],
    log:
        f"{S}/logs/plan/{{run}}.log",
    benchmark:
        f"{S}/benchmarks/plan/{{run}}.tsv"
    resources:
        mem_mb=1500,
    shell:
        "dataeff plan --spec {input.spec} --samples {params.samples} --index {params.indexes}"
        f" --out {S}/plan/{{wildcards.run}} > {{log}} 2>&1"
