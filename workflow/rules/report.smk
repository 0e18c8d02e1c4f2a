rule report:
    input:
        spec=lambda wildcards: f"{S}/specs/grid/{grid_of(wildcards)}.yaml",
        corpus=rules.corpus.output.card,
        tokens=lambda wildcards: token_facts_of(grid_of(wildcards)),
        tables=lambda wildcards: f"{S}/tables/{grid_of(wildcards)}/quality.csv",
        # What changes a figure changes the results too; a folder that is only touched must not make the page anew.
        figures=lambda wildcards: ancient(f"{S}/figures/{grid_of(wildcards)}"),
        results=lambda wildcards: results_of(grid_of(wildcards)),
    output:
        page=report(
            f"{S}/report/{{page}}.html",
            caption="../report/page.rst",
            category="Report",
        ),
        claims=f"{S}/report/{{page}}.claims.json",
    log:
        f"{S}/logs/report/{{page}}.log",
    benchmark:
        f"{S}/benchmarks/report/{{page}}.tsv"
    resources:
        **site.job(study.hardware, memory_mb=1000),
    params:
        tables=lambda wildcards: f"{S}/tables/{grid_of(wildcards)}",
    message:
        "report {wildcards.page}"
    shell:
        f"dataeff report --spec {{input.spec}} --results {S} --corpus {{input.corpus}} --tokens {{input.tokens}}"
        " --tables {params.tables} --figures {input.figures} --out {output.page} > {log} 2>&1"
