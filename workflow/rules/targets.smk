"""Parts of the default grid alone: what they show is brought up to date, and nothing that does not serve them."""


rule all_tables:
    input:
        expand(rules.tables.output, grid=study.grid),
    message:
        f"tables of grid {study.grid} at scale {study.scale_name}"


rule all_figures:
    input:
        expand(rules.figures.output, grid=study.grid),
    message:
        f"figures of grid {study.grid} at scale {study.scale_name}"
