"""The papers' statements that a grid's runs can speak to: what each says, where, and what is measured of it here.

A statement's limit is stated here and taken from no run: no loss above the baseline's, a share of its tokens or time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean

from dataeff.claims.evidence import (
    Evidence,
    Place,
    common_percents,
    data_for_quality,
    data_saving,
    loss_difference,
    lower_everywhere,
    score_difference,
    time_ratio,
)
from dataeff.claims.rows import BETTER, DE, LESS, LTD, RECALLED, averages, cases
from dataeff.study.base import FamilyName
from dataeff.tables.finetune import average_of
from dataeff.tables.prompted import averaged_tasks
from dataeff.tables.quality import average
from dataeff.tables.results import BASELINE, RunResult

SHARE_AT_95 = 0.08
"""100% / 12.5"""
TIME_AS_PUBLISHED = 0.744
"""1 - 25.6%"""

Measured = Callable[[Sequence[RunResult]], Evidence]


@dataclass(frozen=True)
class Statement:
    """`rule`: when it holds and when not, in words; `rank`: its place among those that a page shows first."""

    key: str
    family: FamilyName
    variant: str
    published: str
    source: str
    rule: str
    measure: Measured
    rank: int | None = None


_WITHIN = "the 95% interval must lie on one side of"
_EACH = "holds where the 95% interval of the difference lies below 0, and does not hold where it lies above 0 for any,"


def statements_of(families: Sequence[FamilyName], runs: Sequence[RunResult]) -> list[Statement]:
    """Of the families that a grid has, in one order whatever runs it has."""
    found = []
    for family in families:
        found += [*_saving(family), *_less_data(family), *_equal_data(family)]
        found += [_composition(), *_of_gpt(runs), *_learning_rate()] if family == "gpt" else _of_bert()
    return found


def _saving(family: FamilyName) -> list[Statement]:
    """What is needed for the baseline's loss, of tokens and (composed) of time."""
    rule = f"{_WITHIN} 100% of the baseline's: holds below it, does not hold above it"
    found = [
        Statement(
            key=f"data_saving_{family}_{row.variant}",
            family=family,
            variant=row.variant,
            published=f"Less data give the quality of the full baseline: {averages(family, row)}.",
            source=cases(family, 1, row.case),
            rule=rule,
            measure=partial(data_saving, family=family, variant=row.variant),
            rank=0 if row.variant == "composed" else None,
        )
        for row in LESS[family]
    ]
    time = {"gpt": "130 hours on 64 V100 against 260", "bert": f"144 hours on 64 V100 against 261{RECALLED}"}[family]
    composed = LESS[family][0]
    return [
        *found,
        Statement(
            key=f"time_saving_{family}_composed",
            family=family,
            variant="composed",
            published=f"Half of the data take about half of the time for the full baseline's quality: {time}.",
            source=cases(family, 1, composed.case),
            rule=rule,
            measure=partial(data_saving, family=family, variant="composed", cost="training_seconds"),
        ),
    ]


def _less_data(family: FamilyName) -> list[Statement]:
    """At the least data with which the papers reach the full baseline."""
    rows = LESS[family]
    found = [
        Statement(
            key=f"same_quality_{family}_{row.variant}_{row.percent}",
            family=family,
            variant=row.variant,
            published=f"As good as the full baseline, or better: {averages(family, row)}.",
            source=cases(family, 1, row.case),
            rule=f"{_WITHIN} a difference of 0 to the full baseline: holds below it, does not hold above it",
            measure=partial(
                loss_difference, family=family, ours=Place(row.variant, row.percent), theirs=Place(BASELINE)
            ),
            rank=1 if row.variant == "composed" else None,
        )
        for row in rows
    ]
    if family != "gpt":
        return found
    flat = Statement(
        key="same_quality_gpt_ltd_flat_lr_67",
        family=family,
        variant="ltd_flat_lr",
        published="A third of the tokens saved at equal quality: 0-shot average 42.5 on 67% of the data, 42.5 of the "
        "baseline on 100%; the peak learning rate is not scaled.",
        source=f"{LTD}, GPT-3 1.3B",
        rule=found[0].rule,
        measure=partial(loss_difference, family=family, ours=Place("ltd_flat_lr", 67), theirs=Place(BASELINE)),
    )
    return [*found, flat]


def _equal_data(family: FamilyName) -> list[Statement]:
    """Lower loss on as much data, of each technique that the papers report to be better there."""
    return [
        Statement(
            key=f"better_at_equal_data_{family}_{row.variant}",
            family=family,
            variant=row.variant,
            published=f"Better than the baseline on as much data: {averages(family, row)}.",
            source=cases(family, 1, row.case),
            rule=f"{_WITHIN} a difference of 0: holds below it, does not hold above it",
            measure=partial(loss_difference, family=family, ours=Place(row.variant), theirs=Place(BASELINE)),
            rank=2 if row.variant == "composed" else None,
        )
        for row in BETTER[family]
    ]


def _composition() -> Statement:
    """Of GPT: of BERT the papers' random-LTD alone is better than the composition."""
    pairs = [(Place("composed"), Place(name)) for name in ("cl_seqtru_voc", "ltd")]
    return Statement(
        key="composition_gpt",
        family="gpt",
        variant="composed",
        published="The composition is better than its parts: 0-shot average 43.8 on 100% of the data, 43.6 of the "
        "curricula and 43.7 of random-LTD alone.",
        source=cases("gpt", 5, 7, 8),
        rule=f"{_EACH} of the two parts",
        measure=partial(
            lower_everywhere, family="gpt", places=pairs, text="'composed' beside its two parts on 100% of the data"
        ),
    )


def _of_gpt(runs: Sequence[RunResult]) -> list[Statement]:
    percents = common_percents(runs, "gpt", "composed")
    every = [(Place("composed", percent), Place(BASELINE, percent)) for percent in percents]
    return [
        Statement(
            key="quality_95_gpt_composed",
            family="gpt",
            variant="composed",
            published="95% of the full baseline's quality (0-shot average) with 12.5 times less data: 8% of it.",
            source=f"{DE}, abstract",
            rule=f"{_WITHIN} 8%: holds below it, does not hold above it. Quality is another one here: the probability "
            "of a held-out token",
            measure=partial(data_for_quality, family="gpt", variant="composed", limit=SHARE_AT_95),
            rank=3,
        ),
        Statement(
            key="pareto_gpt_composed",
            family="gpt",
            variant="composed",
            published="The composition is above the baseline at every amount of data: on 50%, 42.8 against 42.0.",
            source=f"{DE}, figure of quality by amount of data",
            rule=f"{_EACH} of the amounts of data that both were run on",
            measure=partial(
                lower_everywhere, family="gpt", places=every, text="'composed' beside the baseline of the same data"
            ),
        ),
        Statement(
            key="time_gpt_ltd",
            family="gpt",
            variant="ltd",
            published="With a third of the tokens saved, random-LTD saves 25.6% of the wall-clock time.",
            source=f"{LTD}, abstract",
            rule=f"{_WITHIN} 74.4% of the full baseline's time: holds below it, does not hold above it",
            measure=partial(
                time_ratio, family="gpt", ours=Place("ltd", 67), theirs=Place(BASELINE), limit=TIME_AS_PUBLISHED
            ),
        ),
        Statement(
            key="tasks_gpt_composed",
            family="gpt",
            variant="composed",
            published="0-shot average over 19 tasks 43.8 against 42.5 of the baseline, both on 100% of the data.",
            source=cases("gpt", 1, 8),
            rule=f"{_WITHIN} a difference of 0: holds above it, does not hold below it; the baseline itself must be "
            "above chance",
            measure=partial(
                score_difference,
                family="gpt",
                ours=Place("composed"),
                theirs=Place(BASELINE),
                measure=partial(average, 0),
                chance=_chance,
                words="0-shot average",
            ),
        ),
    ]


def _chance(result: RunResult) -> float | None:
    """What blind answers score on average at 0 shots; None where a task has no such value."""
    tasks = result.tasks.get(0, {})
    levels = [tasks[name].chance for name in averaged_tasks(result.tasks, 0)] if tasks else []
    known = [level for level in levels if level is not None]
    return fmean(known) if known and len(known) == len(levels) else None


def _learning_rate() -> list[Statement]:
    """The peak learning rate times 100% / data, against the full run's own."""
    rows = [("baseline", 50), ("composed", 50), ("ltd", 67)]
    return [
        Statement(
            key=f"learning_rate_gpt_{variant}_{percent}",
            family="gpt",
            variant=variant,
            published="With less data the peak learning rate is to be raised in proportion."
            + (f" random-LTD on 67%: 0-shot average 43.1{RECALLED} with it, 42.5 without." if variant == "ltd" else ""),
            source=f"{DE}, training with less data",
            rule=f"{_WITHIN} a difference of 0 to the same method with the rate of 100% data: holds below it, does not "
            "hold above it",
            measure=partial(
                loss_difference,
                family="gpt",
                ours=Place(variant, percent),
                theirs=Place(f"{variant}_flat_lr", percent),
            ),
        )
        for variant, percent in rows
    ]


def _of_bert() -> list[Statement]:
    tuned = [
        Statement(
            key=f"finetuned_bert_{variant}",
            family="bert",
            variant=variant,
            published=f"GLUE average {value}{RECALLED} against 87.29 of the baseline, both on 100% of the data.",
            source=cases("bert", 1, case),
            rule=f"{_WITHIN} a difference of 0: holds above it, does not hold below it",
            measure=partial(_tuned, variant=variant),
        )
        for variant, case, value in (("ltd", 7, "88.17"), ("composed", 8, "87.69"))
    ]
    dropout = Statement(
        key="dropout_bert_ltd",
        family="bert",
        variant="ltd_no_dropout",
        published="With random-LTD, training without dropout can help some tasks; no number is given.",
        source="comment in the released BERT pretraining script (Megatron-DeepSpeed)",
        rule=f"{_WITHIN} a difference of 0 to random-LTD with dropout: holds below it, does not hold above it",
        measure=partial(loss_difference, family="bert", ours=Place("ltd_no_dropout"), theirs=Place("ltd")),
    )
    return [*tuned, dropout]


def _tuned(runs: Sequence[RunResult], variant: str) -> Evidence:
    """The average after finetuning, of GLUE where the grid has it and of its first table of tasks otherwise."""
    tables = {scores.table for result in runs for scores in result.finetuned.values()}
    table = "glue" if "glue" in tables else min(tables, default="glue")
    return score_difference(
        runs,
        "bert",
        Place(variant),
        Place(BASELINE),
        measure=partial(average_of, table, "honest"),
        chance=lambda result: None,
        words=f"average after finetuning (table '{table}')",
    )
