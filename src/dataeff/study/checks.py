"""Checks that need the whole study: refused here, while Snakemake parses, rather than in a job hours later."""

from __future__ import annotations

from dataeff.corpus.readers import find_reader
from dataeff.corpus.selection import read_sources, shard_names
from dataeff.errors import DataeffError, unknown_name
from dataeff.families.traits import TRAITS
from dataeff.study.base import FamilyName
from dataeff.study.load import Study, check_paths
from dataeff.study.specs import evaluate_specs, plan_spec
from dataeff.study.tasks import HeldoutTask
from dataeff.study.types import LENGTH_METRIC, Run

_STAGES = "corpus tokens samples analyze plan pretrain datasets evaluate finetune tables figures report"
_STEPS = (
    "corpus_fetch corpus_fetch_shard corpus_shard tokens_train analyze_map analyze_frequency analysis evaluate_items "
    "evaluate_heldout evaluate_scan evaluate_contamination datasets_ready fetch_eval "
    "all_tables all_figures canary canary_run"
)
RESERVED = frozenset(f"all index {_STAGES} {_STEPS}".split())
"""Grids are targets beside the rules, and pages of the report."""


def check_study(study: Study) -> None:
    """Raises one DataeffError for the first thing that cannot be run as configured."""
    check_paths(study)
    for grid in study.grids:
        if grid in RESERVED:
            raise DataeffError(
                f"config: grids.{grid}: '{grid}' is the name of a stage or rule; give the grid another name"
            )
    read_sources(study.scale.corpus, study.corpus, study.sources)
    shard_names(study.corpus, study.sources)
    for name, source in study.sources.items():
        find_reader(source.reader, f"sources.{name}.reader")
    for run in study.runs:
        _check_metrics(study, run.family, run.variant)
    for family, scale in study.scale.families.items():
        for metric in scale.metrics:
            if metric not in TRAITS[family].select_metrics:
                where = f"scales.{study.scale_name}.families.{family}.metrics"
                raise unknown_name("metric", metric, TRAITS[family].select_metrics, where)
    for run in study.grids[study.grid]:
        _check_plan(study, run)
    _check_tasks(study)


def _check_tasks(study: Study) -> None:
    from dataeff.evaluate.definitions import check, splits_of

    known = {source.domain for source in study.sources.values()}
    for name, task in study.tasks.items():
        for domain in task.domains if isinstance(task, HeldoutTask) else []:
            if domain not in known:
                raise unknown_name("domain", domain, known, f"tasks.{name}.domains (corpus '{study.scale.corpus}')")
    for spec in evaluate_specs(study).values():
        check(spec)
    for name, tuned in study.finetuning.items():
        splits = splits_of(study.datasets[tuned.data])
        for split in (tuned.train, *tuned.evaluation.values()):
            if splits is not None and split not in splits:
                raise unknown_name("split", split, splits, f"finetuning.{name} (dataset '{tuned.data}')")


def _check_metrics(study: Study, family: FamilyName, name: str) -> None:
    variant, traits = study.variants[family][name], TRAITS[family]
    for metric, part in variant.curriculum.items():
        if part.apply in traits.refused:
            raise DataeffError(
                f"variants.{family}.{name}.curriculum.{metric}.apply: {part.apply} {traits.refused[part.apply]}, which "
                f"samples of {traits.title} are not; use truncate or select"
            )
        known = traits.select_metrics if part.apply == "select" else [LENGTH_METRIC]
        if metric not in known:
            raise unknown_name(
                "metric",
                metric,
                [*traits.select_metrics, LENGTH_METRIC],
                f"variants.{family}.{name}.curriculum",
            )


def unrunnable_grids(study: Study) -> dict[str, str]:
    """Grids beside the default one that this scale is too small for, and why: refused only when they are asked for."""
    faults: dict[str, str] = {}
    for grid, runs in study.grids.items():
        if grid == study.grid:
            continue
        try:
            for run in runs:
                _check_plan(study, run)
        except DataeffError as error:
            faults[grid] = str(error)
    return faults


def _check_plan(study: Study, run: Run) -> None:
    """Everything about a run's plan that needs no data."""
    from dataeff.plan import nominal_steps, schedules
    from dataeff.pretrain.average import averaged_steps

    spec = plan_spec(study, run)
    steps = nominal_steps(spec)
    schedules(spec)
    if spec.variant.averaging is not None:
        averaged_steps(steps, spec.variant.averaging, f"{run.name}: averaging")
    rate = spec.learning_rate
    warmup = rate.warmup_tokens + rate.warmup_steps * spec.batch_size * spec.sequence_length
    if warmup >= spec.train_tokens:
        key = "warmup_steps" if rate.warmup_steps else "warmup_tokens"
        raise DataeffError(
            f"{run.name}: learning_rate.{key} is {getattr(rate, key)}, the run has only {spec.train_tokens} tokens; "
            f"lower the warm-up or raise train_tokens"
        )
