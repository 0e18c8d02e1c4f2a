rule plan:
    input:
        spec=f"{S}/specs/plan/{{run}}.yaml",
        samples=samples_of,
        indexes=indexes_of,
    output:
        multiext(
            f"{S}/plan/{{run}}/",
            "steps.parquet",
            "order.json",
            "counts.npy",
            "plan.json",
        ),
    log:
        f"{S}/logs/plan/{{run}}.log",
    benchmark:
        f"{S}/benchmarks/plan/{{run}}.tsv"
    resources:
        **site.job(study.hardware, memory_mb=1500),
    params:
        samples=lambda wildcards: folders(samples_of(wildcards)),
        indexes=lambda wildcards: folders(indexes_of(wildcards)),
    message:
        "plan {wildcards.run}"
    shell:
        "dataeff plan --spec {input.spec} --samples {params.samples} --index {params.indexes}"
        f" --out {S}/plan/{{wildcards.run}} > {{log}} 2>&1"
