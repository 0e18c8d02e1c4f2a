"""Checks that need the whole study: refused here, while Snakemake parses, rather than in a job hours later."""

from __future__ import annotations

from dataeff.corpus.readers import find_reader
from dataeff.errors import DataeffError, unknown_name
from dataeff.study.load import Study, check_paths
from dataeff.study.specs import plan_spec
from dataeff.study.types import LENGTH_METRIC

SELECT_METRICS = {"gpt": ["vocab_rarity"]}
"""Difficulty metrics with an analysis, per family; analyze/metrics.py computes them (a test holds the two together)."""


_STAGES = "corpus tokens samples analyze plan pretrain evaluate tables figures report"
_STEPS = "corpus_fetch tokens_train analyze_frequency evaluate_items"
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
    for name, source in study.sources.items():
        find_reader(source.reader, f"sources.{name}.reader")
    for run in study.runs:
        _check_metrics(study, run.family, run.variant)
    for run in study.runs:
        _check_plan(study, run.name)
    for name in study.scale.evaluation.tasks:
        task = study.tasks[name]
        known = {source.domain for source in study.sources.values()}
        for domain in task.domains:
            if domain not in known:
                raise unknown_name("domain", domain, known, f"tasks.{name}.domains (corpus '{study.scale.corpus}')")


def _check_metrics(study: Study, family: str, name: str) -> None:
    variant = study.variants[family][name]
    for metric, part in variant.curriculum.items():
        known = SELECT_METRICS[family] if part.apply == "select" else [LENGTH_METRIC]
        if metric not in known:
            raise unknown_name(
                "metric",
                metric,
                [*SELECT_METRICS[family], LENGTH_METRIC],
                f"variants.{family}.{name}.curriculum",
            )


def _check_plan(study: Study, run_name: str) -> None:
    """Everything about a run's plan that needs no data."""
    from dataeff.plan import nominal_steps, schedules

    run = study.find_run(run_name)
    spec = plan_spec(study, run)
    nominal_steps(spec)
    schedules(spec)
    if spec.learning_rate.warmup_tokens >= spec.train_tokens:
        raise DataeffError(
            f"{run_name}: learning_rate.warmup_tokens is {spec.learning_rate.warmup_tokens}, the run has only "
            f"{spec.train_tokens} tokens; lower the warm-up or raise train_tokens"
        )
