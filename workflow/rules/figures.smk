FIGURES = ["loss_vs_effective_tokens", "pacing", "difficulty_histogram", "quality_delta", "heldout_by_domain"]


rule figures:
    input:
        spec=f"{S}/specs/grid/{{grid}}.yaml",
        results=results_of_grid,
        plans=lambda wildcards: expand(
            f"{S}/plan/{{run}}/steps.parquet", run=study_of.names(study.grids[wildcards.grid])
        ),
    output:
        f"{S}/figures/{{grid}}/captions.json",
    log:
        f"{S}/logs/figures/{{grid}}.log",
    benchmark:
        f"{S}/benchmarks/figures/{{grid}}.tsv"
    resources:
        mem_mb=1000,
    shell:
        f"dataeff figures --spec {{input.spec}} --results {S} --data {T} --out {S}/figures/{{wildcards.grid}} > {{log}} 2>&1"
