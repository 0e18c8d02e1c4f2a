"""Which files a rule reads that depend on its run, grid or page; used by the rules, which hold no logic."""


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


def results_of(grid):
    """The files of every run of a grid that tables, figures and the report read."""
    runs = study_of.names(study.grids[grid])
    return expand(
        f"{S}/pretrain/{{run}}/{{file}}",
        run=runs,
        file=["run.json", "timings.json", "metrics.jsonl"],
    ) + expand(
        f"{S}/evaluate/{{run}}/{{file}}",
        run=runs,
        file=["heldout.json", *expand("{shots}shot/scores.json", shots=SHOTS)],
    )


def grid_of(wildcards):
    """`index` is the default grid's page."""
    return study.grid if wildcards.page == "index" else wildcards.page


def outputs_of(grid):
    """Every file that a grid is made of: the report alone would leave a result unmade that someone deleted."""
    page = "index" if grid == study.grid else grid
    of_run = [*rules.plan.output, *rules.pretrain.output, *rules.evaluate.output]
    of_grid = [*rules.tables.output, *rules.figures.output]
    return [
        *expand(of_run, run=study_of.names(study.grids[grid])),
        *expand(of_grid, grid=grid),
        *expand(rules.report.output, page=page),
    ]
