"""What a canary trains and asks: the specs of one run of the study, cut down to steps and items of seconds.

All that decides how a step runs stays the study's: the model, its precision, the rows of a step, the method. Few are
the steps, the items, the bytes of held-out text.
"""

from __future__ import annotations

from dataclasses import dataclass

from dataeff.families.traits import PROMPTED
from dataeff.files import canonical_digest
from dataeff.study.load import Study
from dataeff.study.specs import (
    EvaluateSpec,
    FinetuneSpec,
    HeldoutSpec,
    PlanSpec,
    PretrainSpec,
    evaluate_specs,
    finetune_specs,
    plan_spec,
    pretrain_spec,
)
from dataeff.study.tasks import HarnessTask, HeldoutTask
from dataeff.study.types import LearningRate, Run

STEPS = 12
CHECKPOINT_EVERY = 4
MINUTES = 30
"""The time limit of a canary's job, start-up of large models and slow file systems included."""
_HELDOUT_BYTES, _ITEMS, _TRAIN_ITEMS = 4000, 4, 32


@dataclass(frozen=True)
class Trial:
    """The specs of a canary; a model that continues text is prompted, any other finetuned, where there are tasks."""

    run: Run
    plan: PlanSpec
    pretrain: PretrainSpec
    heldout: HeldoutSpec
    evaluate: EvaluateSpec | None
    finetune: FinetuneSpec | None

    @classmethod
    def of(cls, study: Study, run: Run) -> Trial:
        prompted = run.family in PROMPTED
        return cls(
            run=run,
            plan=_short_plan(study, run),
            pretrain=pretrain_spec(study, run),
            heldout=HeldoutSpec(heldout_bytes_per_domain=_HELDOUT_BYTES, batch_size=study.scale.evaluation.batch_size),
            evaluate=_one_task(study) if prompted else None,
            finetune=None if prompted else _one_finetuning(study),
        )

    @property
    def digest(self) -> str:
        """What makes a canary another one, beside the data: a parameter of its rule."""
        parts = (self.plan, self.pretrain, self.heldout, self.evaluate, self.finetune)
        return canonical_digest([part.digest for part in parts if part is not None])

    @property
    def heldout_tasks(self) -> list[str]:
        """The task whose items were made from held-out text, if it is one of these."""
        tasks = self.evaluate.tasks if self.evaluate else {}
        return [name for name, task in tasks.items() if isinstance(task, HeldoutTask)]

    @property
    def datasets(self) -> list[str]:
        """The dataset that is read, if the task or the finetuning has one."""
        asked = list(self.evaluate.datasets) if self.evaluate else []
        return asked + ([self.finetune.task.data] if self.finetune else [])


def canary_runs(study: Study) -> list[Run]:
    """One run of each family of the default grid: the one with the most methods at work, on as much data as any."""
    chosen: dict[str, Run] = {}
    for run in study.grids[study.grid]:
        before = chosen.get(run.family)
        if before is None or _methods(study, run) > _methods(study, before):
            chosen[run.family] = run
    return list(chosen.values())


def _methods(study: Study, run: Run) -> tuple[int, float]:
    variant = study.variant(run)
    return len(variant.curriculum) + (variant.token_drop is not None), float(run.data)


def _short_plan(study: Study, run: Run) -> PlanSpec:
    spec = plan_spec(study, run)
    rate = spec.learning_rate
    return spec.model_copy(
        update={
            "train_tokens": STEPS * spec.batch_size * spec.sequence_length,
            "learning_rate": LearningRate(peak=rate.peak, minimum=rate.minimum, warmup_steps=1, decay=rate.decay),
            "published_steps": {},
        }
    )


def _one_task(study: Study) -> EvaluateSpec | None:
    """The first task whose items need no download, else the first one of all."""
    specs = evaluate_specs(study)
    found = [
        (isinstance(task, HarnessTask), group, name)
        for group, spec in specs.items()
        for name, task in spec.tasks.items()
    ]
    if not found:
        return None
    _, group, name = min(found, key=lambda entry: entry[0])
    spec, task = specs[group], specs[group].tasks[name]
    datasets = {task.data: study.datasets[task.data]} if isinstance(task, HarnessTask) else {}
    shots = task.shots if isinstance(task, HarnessTask) and task.shots else spec.shots
    return spec.model_copy(update={"tasks": {name: task}, "datasets": datasets, "items": _ITEMS, "shots": [min(shots)]})


def _one_finetuning(study: Study) -> FinetuneSpec | None:
    for spec in finetune_specs(study).values():
        recipe = spec.recipe.model_copy(
            update={"epochs": 1, "seeds": spec.recipe.seeds[:1], "learning_rates": spec.recipe.learning_rates[:1]}
        )
        return spec.model_copy(update={"recipe": recipe, "train_items": _TRAIN_ITEMS, "evaluation_items": _TRAIN_ITEMS})
    return None
