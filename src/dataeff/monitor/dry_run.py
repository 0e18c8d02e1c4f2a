"""Snakemake's own answer to what would run after an edit, without writing a spec: a process of its own, asked by
preview.py.

A plain dry run writes the edited specs, since rules read them by their time and content; that would pull them from
under the jobs of a running study. Here the study is loaded and its specs are written to a temporary folder. Those that
differ from the ones on the disk become the outputs of one more rule (workflow/rules/preview.smk), which is forced: to
Snakemake they are files that a job is about to make anew, and it lists exactly what follows from them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dataeff.errors import DataeffError
from dataeff.files import read_json, write_json
from dataeff.study import workflow as study_of
from dataeff.study.load import Study, load_study
from dataeff.study.specs import write_specs

RULE = "edited_specs"
_FILE_TIMES = study_of.CURRENT.parent / "iocache/latest.pkl"
"""What a dry run leaves for `snakemake --trust-io-cache`: it must not be of files that only seemed to be made anew."""


class DryRun:
    """What this process has learnt so far: the study, the specs that it would write, and Snakemake's workflow."""

    def __init__(self) -> None:
        self.study: Study | None = None
        self.edited: dict[str, tuple[str | None, str]] = {}
        self.workflow: Any = None

    def prepare(
        self, config: Mapping[str, Any], root: Path, *, is_main_process: bool, arguments: Sequence[str] | None = None
    ) -> Study:
        """Takes the place of study.workflow.prepare in this process: the same study, and nothing is written."""
        try:
            self.study = load_study(study_of.typed_config(config, arguments or ()), root)
        except DataeffError as error:
            sys.exit(f"dataeff: error: {error}")
        self.edited = edited_specs(self.study, Path(self.study.results))
        return self.study


_ASKED = DryRun()


def edited_specs(study: Study, results: Path) -> dict[str, tuple[str | None, str]]:
    """(text on the disk, text that the study asks for) of every spec that differs, by its path below the results."""
    with TemporaryDirectory(prefix="dataeff-preview-") as folder:
        wanted = {path.relative_to(folder): path.read_text("utf-8") for path in write_specs(study, Path(folder))}
    edited = {}
    for path, text in sorted(wanted.items()):
        present = (results / path).read_text("utf-8") if (results / path).is_file() else None
        if present != text:
            edited[str(path)] = present, text
    return edited


def specs_to_remake(workflow: Any) -> Iterator[list[str]]:
    """For workflow/rules/preview.smk: the outputs of its rule; nothing outside of `dataeff preview`."""
    if _ASKED.study is not None:
        _ASKED.workflow, results = workflow, _ASKED.study.results
        # A rule is forced by its name, which must be there where no spec was edited, too.
        yield [f"{results}/{path}" for path in _ASKED.edited or [".study/nothing_edited"]]


def _jobs(dag: Any) -> list[dict[str, Any]]:
    """The jobs that would run: by what rule, for what, why, and made anew by which others. An input that
    is `ancient` has nothing made anew.
    """
    from snakemake.io import is_flagged

    needed = list(dag.needrun_jobs(exclude_finished=False))
    numbers = {job: number for number, job in enumerate(needed)}
    return [
        {
            "rule": job.rule.name,
            "wildcards": dict(job.wildcards_dict),
            "output": [str(path) for path in job.output],
            "reason": _reason(dag.reason(job)),
            "after": {
                str(numbers[other]): triggers
                for other, files in dag.dependencies[job].items()
                if other in numbers and (triggers := [str(path) for path in files if not is_flagged(path, "ancient")])
            },
        }
        for job in needed
    ]


def _reason(reason: Any) -> dict[str, Any]:
    """Of Snakemake's reasons, those that do not follow from another job."""
    found = {
        "missing": sorted(map(str, reason.missing_output)),
        "cut off": sorted(map(str, reason.incomplete_output)),
        "newer": sorted(map(str, reason.updated_input)),
        "parameters": bool(reason.params_changed),
        "inputs": bool(reason.input_changed),
    }
    return {name: value for name, value in found.items() if value}


@contextmanager
def _kept(path: Path) -> Iterator[None]:
    """The file is afterwards what it was before, or not there as before."""
    aside = path.with_name(f"{path.name}.preview")
    if path.is_file():
        path.replace(aside)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        if aside.is_file():
            aside.replace(path)


def main() -> None:
    """`python -m dataeff.monitor.dry_run REQUEST`: a JSON file with the arguments and where the answer goes."""
    from snakemake import cli

    from dataeff.monitor import dry_run as this  # the module that preview.smk imports, not __main__

    request = read_json(Path(sys.argv[1]))
    asked = this._ASKED
    study_of.prepare = asked.prepare
    try:
        with _kept(_FILE_TIMES):
            cli.main([*request["arguments"], "--dry-run", "--nolock", "--quiet", "all", "--forcerun", RULE])
    except SystemExit as ended:
        if ended.code:
            raise
    if asked.study is None or asked.workflow is None:
        raise DataeffError("the Snakefile here has no workflow/rules/preview.smk; take the one of this version")
    answer = {
        "study": json.loads(asked.study.model_dump_json()),
        "edited": asked.edited,
        "jobs": this._jobs(asked.workflow.dag),
    }
    write_json(Path(request["answer"]), answer)


if __name__ == "__main__":
    try:
        main()
    except DataeffError as error:
        sys.exit(f"dataeff: error: {error}")
