"""tables: the result files of a grid's runs -> CSV, LaTeX and JSON tables, and the summary for the terminal.

quality (what is reached at what cost, with differences to the baseline), published (the papers' numbers beside ours),
saving (what a variant needs for the baseline's loss), heldout_by_domain, tasks, finetune, and time (where it went); and
claims.json, the papers' statements judged by these runs. Every number of ours comes from a result file; nothing is
read from a log. published.csv and finetune.csv are always written, with no row where there is nothing to say.
"""

from __future__ import annotations

from pathlib import Path

from dataeff.files import atomic_directory, write_manifest, write_text
from dataeff.study.specs import GridSpec
from dataeff.tables.details import domain_table, time_table
from dataeff.tables.finetune import finetune_table
from dataeff.tables.published import published_table
from dataeff.tables.quality import quality_table
from dataeff.tables.results import read_runs
from dataeff.tables.saving import saving_table
from dataeff.tables.table import write_table
from dataeff.tables.tasks import task_table
from dataeff.tables.terminal import summary


def build(spec: GridSpec, results: Path, out: Path, data: Path | None = None) -> None:
    """Writes the folder `out`, whole, from `results` (the results/{scale} folder).

    `data` is the results/data/{corpus} folder: the time table then counts the jobs that all scales share too.
    """
    # Claims are made of tables' numbers and so import this package: they are needed when it is whole.
    from dataeff.claims import write_claims
    from dataeff.claims.judge import judged

    runs = read_runs(spec, results)
    domains, domains_csv = domain_table(runs)
    tasks, tasks_csv = task_table(spec, runs)
    with atomic_directory(out) as folder:
        for table in (
            quality_table(spec, runs),
            saving_table(spec, runs),
            published_table(spec, runs),
            domains,
            tasks,
            finetune_table(spec, runs),
            time_table(Path(results), data and Path(data)),
        ):
            write_table(table, folder)
        write_text(folder / f"{domains.name}.csv", domains_csv)
        write_text(folder / f"{tasks.name}.csv", tasks_csv)
        write_claims(folder, judged(spec, runs))
        write_manifest(folder, spec_digest=spec.digest)


__all__ = ["build", "summary"]
