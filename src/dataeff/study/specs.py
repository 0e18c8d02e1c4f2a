"""Specs: the slice of the study that one stage reads, one file per stage and item, with its digest.

Snakemake's main process writes them while it parses the Snakefile, and only where the content differs; each is
an ordinary input of its rule, so an edit of the configuration reruns exactly the items whose slice changed. A
spec's digest is the identity of what the stage makes: hardware, logging and spacing of checkpoints are no part
of it. A stage's `version` is raised only when the meaning of its output changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, cast

import yaml
from pydantic import Field

from dataeff.corpus.selection import substitutes_of
from dataeff.errors import DataeffError
from dataeff.families.traits import TRAITS
from dataeff.files import canonical_digest, read_yaml, write_if_changed
from dataeff.study.base import ExactFraction, FamilyName, Frozen
from dataeff.study.fetches import Fetch
from dataeff.study.load import Layout, Study, validate
from dataeff.study.published import PublishedResults, published_of
from dataeff.study.tasks import Dataset, FinetuneRecipe, FinetuneTask, HarnessTask, HeldoutTask, Task
from dataeff.study.types import (
    FREQUENCY,
    Adam,
    Averaging,
    BertTokenizer,
    Corpus,
    FamilyScale,
    Gpt2Tokenizer,
    LearningRate,
    LowData,
    Model,
    Published,
    Run,
    Source,
    Split,
    Tokenizer,
    Variant,
)

AnySpec = TypeVar("AnySpec", bound="Spec")


class Spec(Frozen):
    stage: ClassVar[str]
    version: int = 1

    @property
    def digest(self) -> str:
        return canonical_digest({"stage": self.stage, **self.model_dump(mode="json")})


class FetchSpec(Spec):
    """The files (or local folder) to bring: of a text source, or of a tokenizer's vocabulary."""

    stage: ClassVar[str] = "fetch"
    name: str
    licence: str
    fetch: Fetch
    members: list[str] = Field(default_factory=list)
    substitute: str | None = Field(default=None, description="named when this one cannot be had")
    accepted: FetchSpec | None = Field(default=None, description="taken when this one cannot be had")

    @classmethod
    def of(cls, name: str, source: Source, accepted: Mapping[str, Source] | None = None) -> FetchSpec:
        """The spec of a source; `accepted` holds the sources that may stand in for it, if the corpus allows that."""
        stand_in = source.substitute if source.substitute in (accepted or {}) else None
        return cls(
            name=name,
            licence=source.licence,
            fetch=source.fetch,
            members=source.members,
            substitute=source.substitute,
            accepted=cls.of(stand_in, accepted[stand_in], accepted) if accepted and stand_in else None,
        )


class CorpusSpec(Spec):
    """`sources` also holds the source that is held out and, if they may be taken, the substitutes."""

    stage: ClassVar[str] = "corpus"
    name: str
    corpus: Corpus
    sources: dict[str, Source]


class TokensSpec(Spec):
    stage: ClassVar[str] = "tokens"
    tokenizer: Tokenizer


class SamplesSpec(Spec):
    stage: ClassVar[str] = "samples"
    family: FamilyName
    sequence_length: int
    layout: Layout = Field(default="packed", description="running text in one length, or documents in length buckets")
    seed: int
    epochs: int = 1
    split: Split | None = None
    short_seq_prob: float | None = Field(default=None, description="sentence pairs only")


class AnalyzeSpec(Spec):
    stage: ClassVar[str] = "analyze"
    family: FamilyName
    sequence_length: int
    metric: str


class PlanSpec(Spec):
    """What decides the steps table and the sample order of one run."""

    stage: ClassVar[str] = "plan"
    version: int = 2
    run: Run
    variant: Variant
    layers: int
    sequence_length: int
    batch_size: int
    train_tokens: int
    learning_rate: LearningRate
    learning_rate_factor: ExactFraction = Field(description="the peak against that of 100% data")
    published_steps: dict[str, int] = Field(description="durations of pacings that `over` alone does not give")
    max_epochs: ExactFraction


class PretrainSpec(Spec):
    """What the training loop needs beyond the plan. Pacing and learning rate are the plan's, not repeated here."""

    stage: ClassVar[str] = "pretrain"
    run: Run
    model: Model
    adam: Adam
    precision: Literal["fp32", "bf16", "fp16"]
    length_apply: Literal["truncate", "reshape"] | None = None
    dropped_layers: list[int] = Field(default_factory=list, description="0-based; empty without random-LTD")
    route: Literal["each_layer", "one_route", "samples"] = "each_layer"
    averaging: Averaging | None = None


class DatasetSpec(Spec):
    """One dataset that tasks take their items from: fetched once, for all scales."""

    stage: ClassVar[str] = "datasets"
    name: str
    dataset: Dataset


class ItemsSpec(Spec):
    stage: ClassVar[str] = "items"
    tasks: dict[str, HeldoutTask]


class HeldoutSpec(Spec):
    """Held-out loss, of every run."""

    stage: ClassVar[str] = "heldout"
    heldout_bytes_per_domain: int
    batch_size: int


class EvaluateSpec(Spec):
    """The tasks of one group, for all runs of a scale that continue text."""

    stage: ClassVar[str] = "evaluate"
    group: str
    harness: str
    tasks: dict[str, Task]
    datasets: dict[str, Dataset]
    shots: list[int]
    items: int
    batch_size: int


class FinetuneSpec(Spec):
    """One task, for all runs of a scale that are finetuned; the recipe holds the seeds and rates that are run."""

    stage: ClassVar[str] = "finetune"
    name: str
    task: FinetuneTask
    recipe: FinetuneRecipe
    dataset: Dataset
    train_items: int | None
    evaluation_items: int | None


class PromptedItems(Frozen):
    """Where a prompted task's items come from: `task`, its definition, names the split."""

    task: str
    data: str


class FinetunedItems(Frozen):
    """What a finetuning task is measured on: the split of each column."""

    data: str
    evaluation: dict[str, str]


class ContaminationSpec(Spec):
    """How much of the tasks' items stands in the training text: which items, and nothing of how they are scored."""

    stage: ClassVar[str] = "contamination"
    tasks: dict[str, PromptedItems]
    finetuning: dict[str, FinetunedItems]


class GridSpec(Spec):
    """The runs of a grid as tables, figures and the report need them."""

    stage: ClassVar[str] = "grid"
    grid: str
    scale_name: str
    scale_about: str
    runs: list[Run]
    variants: dict[str, dict[str, Variant]]
    train_tokens: dict[str, int]
    models: dict[str, Model]
    tokenizers: dict[str, str]
    shots: list[int]
    tasks: dict[str, Task]
    finetuning: dict[str, FinetuneTask] = Field(description="tasks of its finetuned runs")
    published: PublishedResults


def dropped_layers(variant: Variant, layers: int) -> list[int]:
    """0-based indices of the layers that drop tokens: all but the first and last ones that are kept whole."""
    if variant.token_drop is None:
        return []
    return list(range(variant.token_drop.keep_first, layers - variant.token_drop.keep_last))


def write_spec(path: Path, spec: Spec) -> bool:
    """Writes the spec with its stage and digest on top, if the file does not hold it already."""
    body = {"stage": spec.stage, "digest": spec.digest, **spec.model_dump(mode="json")}
    return write_if_changed(path, yaml.safe_dump(body, sort_keys=False, allow_unicode=True, width=110))


def read_spec(path: Path, kind: type[AnySpec]) -> AnySpec:
    """The spec of a file; refuses another stage's, and one whose content does not match its digest."""
    raw = _read_raw(path)
    stage, digest = raw.pop("stage", None), raw.pop("digest", None)
    if stage != kind.stage:
        raise DataeffError(f"{path}: this is a spec of stage '{stage or 'none'}'; one of '{kind.stage}' is needed")
    spec = validate(kind, raw, str(path))
    if spec.digest != digest:
        raise DataeffError(
            f"{path}: content and digest do not match (edited by hand?); change config/ instead and run snakemake again"
        )
    return spec


def _read_raw(path: Path) -> dict[str, Any]:
    raw = read_yaml(path)
    return dict(raw) if isinstance(raw, dict) else {}


def samples_spec(study: Study, family: FamilyName, layout: Layout) -> SamplesSpec:
    scale = study.scale.families[family]
    return SamplesSpec(
        family=family,
        sequence_length=scale.model.sequence_length,
        layout=layout,
        seed=study.corpus.seed,
        # Buckets are read again by the order itself.
        epochs=scale.epochs if layout == "packed" else 1,
        split=scale.split,
        short_seq_prob=scale.short_seq_prob if TRAITS[family].sentence_pairs else None,
    )


def plan_spec(study: Study, run: Run) -> PlanSpec:
    scale, variant = study.family(run), study.variant(run)
    train_tokens = int(scale.train_tokens * run.data)
    published = next((constants for constants in scale.published if constants.data == run.data), None)
    return PlanSpec(
        run=run,
        variant=variant.model_copy(update={"about": ""}),
        layers=scale.model.layers,
        sequence_length=scale.model.sequence_length,
        batch_size=scale.batch_size,
        train_tokens=train_tokens,
        learning_rate=_warmed_up(scale, run, train_tokens),
        learning_rate_factor=_learning_rate_factor(scale, variant, run, published),
        published_steps=published.steps if published else {},
        max_epochs=scale.max_epochs,
    )


def _low_data(scale: FamilyScale, run: Run) -> LowData | None:
    return scale.low_data if scale.low_data is not None and run.data < scale.low_data.below else None


def _warmed_up(scale: FamilyScale, run: Run, train_tokens: int) -> LearningRate:
    low = _low_data(scale, run)
    if low is None:
        return scale.learning_rate
    limit = int(low.warmup_at_most * train_tokens)
    if scale.learning_rate.warmup_steps:
        steps = max(1, limit // (scale.batch_size * scale.model.sequence_length))
        return scale.learning_rate.model_copy(update={"warmup_steps": min(scale.learning_rate.warmup_steps, steps)})
    return scale.learning_rate.model_copy(update={"warmup_tokens": min(scale.learning_rate.warmup_tokens, limit)})


def _learning_rate_factor(scale: FamilyScale, variant: Variant, run: Run, published: Published | None) -> Fraction:
    """1 / data, unless the variant does not scale, a published run has its own, or the data are too few; and the
    variant's own multiple.
    """
    if variant.lr_scaling == "none":
        return variant.peak_lr
    if published is not None and published.learning_rate_factor is not None:
        return variant.peak_lr * published.learning_rate_factor
    low = _low_data(scale, run)
    return variant.peak_lr * (min(1 / run.data, low.factor_at_most) if low else 1 / run.data)


def pretrain_spec(study: Study, run: Run) -> PretrainSpec:
    scale, variant = study.family(run), study.variant(run)
    length = variant.length_curriculum
    return PretrainSpec(
        run=run,
        model=scale.model if variant.dropout is None else scale.model.model_copy(update={"dropout": variant.dropout}),
        adam=scale.adam,
        precision=scale.precision,
        length_apply=cast(Literal["truncate", "reshape"], length.apply) if length is not None else None,
        dropped_layers=dropped_layers(variant, scale.model.layers),
        route=variant.token_drop.route if variant.token_drop else "each_layer",
        averaging=variant.averaging,
    )


def grid_spec(study: Study, grid: str) -> GridSpec:
    runs = study.grids[grid]
    families = sorted({run.family for run in runs})
    return GridSpec(
        grid=grid,
        scale_name=study.scale_name,
        scale_about=study.scale.about,
        runs=runs,
        variants={
            family: {run.variant: study.variant(run) for run in runs if run.family == family} for family in families
        },
        train_tokens={family: study.scale.families[family].train_tokens for family in families},
        models={family: study.scale.families[family].model for family in families},
        tokenizers={family: study.scale.families[family].tokenizer for family in families},
        shots=study.scale.evaluation.shots,
        tasks=study.tasks,
        finetuning=study.finetuning,
        published=published_of(study.published, runs),
    )


def evaluate_specs(study: Study) -> dict[str, EvaluateSpec]:
    """By group."""
    evaluation = study.scale.evaluation
    groups: dict[str, dict[str, Task]] = {}
    for name, task in study.tasks.items():
        groups.setdefault(task.group, {})[name] = task
    return {
        group: EvaluateSpec(
            group=group,
            harness=study.harness,
            tasks=tasks,
            datasets={name: study.datasets[name] for name in data_of(tasks)},
            shots=evaluation.shots,
            items=evaluation.items,
            batch_size=evaluation.batch_size,
        )
        for group, tasks in groups.items()
    }


def data_of(tasks: Mapping[str, Task]) -> list[str]:
    """The datasets that prompted tasks read, each once."""
    return list(dict.fromkeys(task.data for task in tasks.values() if isinstance(task, HarnessTask)))


def finetune_specs(study: Study) -> dict[str, FinetuneSpec]:
    """By task, with what the scale changes of the recipe."""
    chosen = study.scale.finetuning
    changed = {
        key: value for key in ("epochs", "learning_rates", "seeds") if (value := getattr(chosen, key)) is not None
    }
    return {
        name: FinetuneSpec(
            name=name,
            task=task,
            recipe=study.recipes[task.recipe].model_copy(update=changed),
            dataset=study.datasets[task.data],
            train_items=chosen.train_items,
            evaluation_items=chosen.evaluation_items,
        )
        for name, task in study.finetuning.items()
    }


def all_specs(study: Study) -> dict[str, Spec]:
    """Every spec of a study by its path below the results folder.

    What depends on text and tokenizer only is shared by all scales and lies under data/, so that running a second
    scale does not touch the first one's specs.
    """
    corpus, scale = study.scale.corpus, study.scale_name
    data = f"data/{corpus}/specs"
    accepted = {name: study.sources[name] for name in substitutes_of(study.corpus, study.sources)}
    specs: dict[str, Spec] = {
        f"data/sources/specs/{name}.yaml": FetchSpec.of(name, source, accepted)
        for name, source in study.sources.items()
    }
    for name, vocabulary in study.tokenizers.items():
        if isinstance(vocabulary, Gpt2Tokenizer | BertTokenizer):
            specs[f"data/sources/specs/tokenizer_{name}.yaml"] = FetchSpec(
                name=f"tokenizer_{name}", licence=vocabulary.licence, fetch=vocabulary.fetch
            )
        specs[f"{data}/tokens-{name}.yaml"] = TokensSpec(tokenizer=vocabulary)
    specs[f"{data}/corpus.yaml"] = CorpusSpec(name=corpus, corpus=study.corpus, sources=study.sources)
    for item, (family, layout) in study.data_items.items():
        specs[f"{data}/{item}/samples.yaml"] = samples_spec(study, family, layout)
    for item, family in study.analysed_items.items():
        for metric in [FREQUENCY, *study.metrics(family)]:
            specs[f"{data}/{item}/analyze-{metric}.yaml"] = AnalyzeSpec(
                family=family, sequence_length=study.scale.families[family].model.sequence_length, metric=metric
            )
    for run in study.runs:
        specs[f"{scale}/specs/plan/{run.name}.yaml"] = plan_spec(study, run)
        specs[f"{scale}/specs/pretrain/{run.name}.yaml"] = pretrain_spec(study, run)
    for name, dataset in study.datasets.items():
        specs[f"data/datasets/specs/{name}.yaml"] = DatasetSpec(name=name, dataset=dataset)
    for name, task in study.tasks.items():
        if isinstance(task, HeldoutTask):
            specs[f"{data}/items-{name}.yaml"] = ItemsSpec(tasks={name: task})
    specs |= {f"{scale}/specs/evaluate/{name}.yaml": spec for name, spec in evaluate_specs(study).items()}
    specs |= {f"{scale}/specs/finetune/{name}.yaml": spec for name, spec in finetune_specs(study).items()}
    specs[f"{scale}/specs/heldout.yaml"] = HeldoutSpec(
        heldout_bytes_per_domain=study.scale.evaluation.heldout_bytes_per_domain,
        batch_size=study.scale.evaluation.batch_size,
    )
    specs[f"{scale}/specs/contamination.yaml"] = ContaminationSpec(
        tasks={
            name: PromptedItems(task=task.task, data=task.data)
            for name, task in study.tasks.items()
            if isinstance(task, HarnessTask)
        },
        finetuning={
            name: FinetunedItems(data=task.data, evaluation=task.evaluation) for name, task in study.finetuning.items()
        },
    )
    for grid in study.grids:
        specs[f"{scale}/specs/grid/{grid}.yaml"] = grid_spec(study, grid)
    return specs


def write_specs(study: Study, results: Path) -> list[Path]:
    """Brings every spec file up to date; the paths of those that changed."""
    return [results / path for path, spec in all_specs(study).items() if write_spec(results / path, spec)]


def check_specs(study: Study, results: Path) -> None:
    """In a cluster job: the specs on disk must be those of the frozen study that the job was submitted with."""
    for path, spec in all_specs(study).items():
        found = _read_raw(results / path).get("digest") if (results / path).exists() else None
        if found != spec.digest:
            raise DataeffError(
                f"{results / path}: changed since this job was submitted (digest {str(found)[:12]}, submitted with "
                f"{spec.digest[:12]}); nothing was run. Let snakemake finish or stop it, then start it again"
            )
