"""What the Snakefile needs of the study: loaded, checked, frozen, its specs written; and the names of its items.

Snakemake's main process loads config/ and writes the specs. Jobs on a cluster parse the Snakefile again, perhaps
after an edit: they load the study that the main process froze, and stop if a spec on disk is another one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from dataeff.corpus import selection
from dataeff.errors import DataeffError
from dataeff.families.traits import PROMPTED
from dataeff.files import read_yaml, write_if_changed
from dataeff.study.load import Study, load_study, merge
from dataeff.study.specs import all_specs, check_specs, evaluate_specs, write_specs
from dataeff.study.tasks import HeldoutTask
from dataeff.study.types import RUN_SETTINGS, BertTokenizer, Gpt2Tokenizer, Run

FROZEN = "DATAEFF_STUDY"
LAUNCHED = "DATAEFF_LAUNCHED"
"""Set by `dataeff run`, which prints the result table itself."""
CURRENT = Path(".snakemake/dataeff.study")
"""The path of the study that the last Snakemake of this folder froze."""


def prepare(
    config: Mapping[str, Any], root: Path, *, is_main_process: bool, arguments: Sequence[str] | None = None
) -> Study:
    """The study of this Snakemake process; a mistake in it ends Snakemake with one message for a person.

    `arguments` are the texts KEY=VALUE of `--config`, which `config` holds already.
    """
    try:
        if not is_main_process and FROZEN in os.environ:
            study = Study.thaw(Path(os.environ[FROZEN]))
            check_specs(study, Path(study.results))
            return study
        study = load_study(typed_config(config, arguments or ()), root)
        results = Path(study.results)
        _leave_a_running_study_its_specs(study, results)
        frozen = study.freeze(results / ".study").resolve()
        os.environ[FROZEN] = str(frozen)
        write_if_changed(CURRENT, str(frozen))
        write_specs(study, results)
        return study
    except DataeffError as error:
        sys.exit(f"dataeff: error: {error}")


def _leave_a_running_study_its_specs(study: Study, results: Path) -> None:
    """Refuses, even to a dry run, to change the specs that the waiting jobs of another Snakemake will read."""
    from dataeff.launch import living_snakemake

    other = living_snakemake()
    if other is None:
        return
    for path, spec in all_specs(study).items():
        if (results / path).exists() and read_yaml(results / path).get("digest") != spec.digest:
            raise DataeffError(
                f"{results / path}: snakemake works here as process {other}, and this configuration would change what "
                f"its jobs read; let it end or stop it first, or give this one a `results` folder of its own"
            )


def typed_config(config: Mapping[str, Any], arguments: Sequence[str]) -> dict[str, Any]:
    """`config` with the lists and mappings of `--config` read as YAML: Snakemake leaves their numbers as texts."""
    given: dict[str, Any] = {}
    for argument in arguments:
        key, _, text = argument.partition("=")
        if isinstance(config.get(key), list | Mapping):
            given = merge(given, {key: yaml.safe_load(text)})
    return merge(config, given)


def print_summary(study: Study) -> None:
    """What ends a study in the terminal: the result table of its default grid, once that is made."""
    from dataeff.tables import summary

    results = Path(study.results) / study.scale_name
    if (results / "tables" / study.grid / "quality.json").is_file() and (results / "report").is_dir():
        print(f"\n{summary(results, study.grid)}", flush=True)


def end(study: Study) -> None:
    """What the Snakefile does after success: `dataeff run` prints the table itself."""
    if LAUNCHED not in os.environ:
        print_summary(study)


def refuse(study: Study, grid: str) -> list[str]:
    """Ends Snakemake where a grid is asked for that this scale cannot run."""
    sys.exit(f"dataeff: error: grid {grid} cannot be run at scale {study.scale_name}: {study.unrunnable[grid]}")


def data_item(study: Study, run_name: str) -> str:
    """`bpe4k/gpt-256`: the tokenizer, family, sequence length and layout whose samples and analysis a run uses."""
    run = study.find_run(run_name)
    return study.data_item(run.family, study.layout(run))


def metrics_of(study: Study, run_name: str) -> list[str]:
    """The metrics whose difficulty index a run's plan reads."""
    return list(study.variant(study.find_run(run_name)).selections)


def indexes(study: Study, files: Sequence[str]) -> list[str]:
    """`files`, with wildcards item and metric, of every metric of every family of the scale."""
    return [
        str(file).format(item=item, metric=metric)
        for item, family in study.analysed_items.items()
        for metric in study.metrics(family)
        for file in files
    ]


def weighs_by_frequency(metric: str) -> bool:
    """Whether a metric's map reads the token frequencies."""
    return metric.endswith("vocab_rarity")


def tokenizers_of(study: Study, grid: str) -> list[str]:
    return list(dict.fromkeys(study.family(run).tokenizer for run in study.grids[grid]))


def names(runs: list[Run]) -> list[str]:
    return [run.name for run in runs]


def prompted(runs: list[Run]) -> list[str]:
    """Names of the runs whose models tasks are put to; the others' evaluation is the held-out loss alone."""
    return [run.name for run in runs if run.family in PROMPTED]


def not_prompted(runs: list[Run]) -> list[str]:
    return [run.name for run in runs if run.family not in PROMPTED]


def groups(study: Study) -> list[str]:
    """The groups of prompted tasks: each is scored by a job of its own."""
    return list(evaluate_specs(study))


def heldout_tasks(study: Study, group: str) -> list[str]:
    """The tasks of a group whose items are made from held-out text."""
    return [name for name, task in study.tasks.items() if task.group == group and isinstance(task, HeldoutTask)]


def datasets(study: Study, group: str) -> list[str]:
    """The datasets that a group of tasks reads."""
    return list(evaluate_specs(study)[group].datasets)


def one_of(texts: Sequence[str]) -> str:
    """A wildcard's pattern; of no text, one that nothing matches."""
    return "|".join(texts) or "(?!)"


def shard_names(study: Study) -> list[str]:
    return selection.shard_names(study.corpus, study.sources)


def read_sources(study: Study) -> list[str]:
    """The sources whose files are fetched for the corpus."""
    return selection.read_sources(study.scale.corpus, study.corpus, study.sources)


def fetched_tokenizers(study: Study) -> list[str]:
    """The tokenizers that are a published vocabulary, rather than trained on the corpus."""
    return [name for name, kind in study.tokenizers.items() if isinstance(kind, Gpt2Tokenizer | BertTokenizer)]


def hardware_options(study: Study) -> str:
    """The command-line options of `dataeff pretrain` that say how, not what: text of the command, never a param."""
    settings = {name: getattr(study.hardware, name) for name in RUN_SETTINGS}
    return " ".join(
        f"--{name.replace('_', '-')} {str(value).lower()}" for name, value in settings.items() if value is not None
    )


def cache_folder(study: Study) -> str:
    """Where downloads are kept: the setting `cache`, or the user's cache folder."""
    if study.cache is not None:
        return study.cache
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return str(Path(base) / "dataeff")
