rule figures:
    input:
        spec=f"{S}/specs/grid/{{grid}}.yaml",
        results=lambda wildcards: results_of(wildcards.grid),
        plans=lambda wildcards: expand(
            f"{S}/plan/{{run}}/{{file}}",
            run=study_of.names(study.grids[wildcards.grid]),
            file=["steps.parquet", "order.json", "counts.npy"],
        ),
    output:
        report(
            directory(f"{S}/figures/{{grid}}"),
            patterns=["{name}.png"],
            caption="../report/figures.rst",
            category="Figures",
        ),
    log:
        f"{S}/logs/figures/{{grid}}.log",
    benchmark:
        f"{S}/benchmarks/figures/{{grid}}.tsv"
    resources:
        **site.job(study.hardware, memory_mb=1000),
    message:
        "figures {wildcards.grid}"
    shell:
        f"dataeff figures --spec {{input.spec}} --results {S} --data {D} --out {S}/figures/{{wildcards.grid}} > {{log}} 2>&1"
