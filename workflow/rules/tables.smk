rule tables:
    input:
        spec=f"{S}/specs/grid/{{grid}}.yaml",
        results=lambda wildcards: results_of(wildcards.grid),
    output:
        report(
            multiext(
                f"{S}/tables/{{grid}}/",
                "quality.csv",
                "published.csv",
                "heldout_by_domain.csv",
                "tasks.csv",
                "time.csv",
                "saving.csv",
            ),
            caption="../report/tables.rst",
            category="Tables",
        ),
        f"{S}/tables/{{grid}}/claims.json",
    log:
        f"{S}/logs/tables/{{grid}}.log",
    benchmark:
        f"{S}/benchmarks/tables/{{grid}}.tsv"
    resources:
        **site.job(study.hardware, memory_mb=1000),
    message:
        "tables {wildcards.grid}"
    shell:
        f"dataeff tables --spec {{input.spec}} --results {S} --data {D} --out {S}/tables/{{wildcards.grid}} > {{log}} 2>&1"
