"""Made-up inputs of a training run, of any size: tokenizer, tokens, samples, held-out text, specs and plan.

Ids are as frequent as words are; what they stand for does not matter to a step's time. The vocabulary has its full
size, since the head over it is a good part of a small model's step, and nothing is fetched or trained for it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice, product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from common import zipf_tokens

from dataeff.corpus.shard import Document, write_documents
from dataeff.files import write_json
from dataeff.plan import TrainingPlan, build_plan
from dataeff.samples import build as build_samples
from dataeff.study.base import FamilyName
from dataeff.study.specs import PlanSpec, PretrainSpec, SamplesSpec, write_spec
from dataeff.study.types import Adam, LearningRate, Model, Run, Variant
from dataeff.token_counts import effective_tokens, reshaped_rows
from dataeff.tokens.indexed_dataset import write_indexed_dataset
from dataeff.tokens.vocabulary import END_OF_TEXT, TOKENIZER_FILE, UNKNOWN, WORD_PIECE_TOKENS

if TYPE_CHECKING:
    import pandas as pd

    from dataeff.pretrain.loop import Inputs

SAMPLES, SEED = 256, 1234
_WORDS = ("time", "people", "water", "light", "house", "music", "river", "stone", "paper", "garden", "winter", "story")


@dataclass(frozen=True)
class Case:
    """What a stretch of steps does: the length of its rows, and the tokens that dropping layers keep of each."""

    length: int
    kept: int


@dataclass(frozen=True)
class RunInputs:
    """One run's files below `folder`. `vocabulary`: tokens, which the embedding pads to a multiple of 128."""

    folder: Path
    family: FamilyName
    model: Model
    vocabulary: int
    batch_size: int
    steps: int
    dropped_layers: Sequence[int] = ()
    length_apply: Literal["truncate", "reshape"] | None = None
    precision: Literal["fp32", "bf16"] = "fp32"

    def make(self) -> RunInputs:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_tokenizer(self.folder / "tokenizer", self.family, self.vocabulary)
        self._write_tokens()
        short = 0.0 if self.family == "bert" else None
        length = self.model.sequence_length
        spec = SamplesSpec(family=self.family, sequence_length=length, seed=SEED, short_seq_prob=short)
        build_samples(spec, [self.folder / "tokens"], self.folder / "samples")
        write_documents(self.folder / "heldout/made_up.jsonl.zst", [Document(_text(length), "made up")])
        write_spec(self.folder / "spec.yaml", self.spec)
        self.plan().save(self.folder / "plan")
        return self

    @property
    def run(self) -> Run:
        return Run(family=self.family, variant="bench", data=Fraction(1), seed=SEED)

    @property
    def spec(self) -> PretrainSpec:
        return PretrainSpec(
            run=self.run,
            model=self.model,
            adam=Adam(),
            precision=self.precision,
            dropped_layers=list(self.dropped_layers),
            length_apply=self.length_apply,
        )

    def plan(self, cases: Sequence[Case] | None = None) -> TrainingPlan:
        """The plan of `steps` full steps or, where `cases` are given (one a step), of these."""
        from dataeff.files import read_json

        spec = PlanSpec(
            run=self.run,
            variant=Variant(),
            layers=self.model.layers,
            sequence_length=self.model.sequence_length,
            batch_size=self.batch_size,
            train_tokens=self.steps * self.batch_size * self.model.sequence_length,
            learning_rate=LearningRate(peak=3e-4, minimum=3e-5),
            learning_rate_factor=Fraction(1),
            published_steps={},
            max_epochs=Fraction(1_000_000),
        )
        plan = build_plan(spec, int(read_json(self.folder / "samples/samples.json")["samples"]), {})
        return plan if cases is None else dataclasses.replace(plan, steps=self._table(plan.steps, cases))

    def inputs(self) -> Inputs:
        from dataeff.pretrain.loop import Inputs

        folder = self.folder
        return Inputs(
            folder / "plan", folder / "samples", [folder / "tokens"], folder / "tokenizer", folder / "heldout"
        )

    def command(self, state: Path, out: Path, **hardware: int) -> list[str]:
        """Arguments of `dataeff` for this run."""
        files = {name: self.folder / name for name in ("plan", "samples", "tokens", "tokenizer", "heldout")}
        files |= {"spec": self.folder / "spec.yaml", "state": state, "out": out}
        options = [word for name, path in files.items() for word in (f"--{name}", str(path))]
        return ["pretrain", *options, *(f"--{name.replace('_', '-')}={value}" for name, value in hardware.items())]

    def _table(self, steps: pd.DataFrame, cases: Sequence[Case]) -> pd.DataFrame:
        """The steps with these lengths and kept tokens, and the tokens that follow from them."""
        length, kept = (np.array([getattr(case, name) for case in cases]) for name in ("length", "kept"))
        rows = np.full(len(cases), self.batch_size)
        if self.length_apply == "reshape":
            rows = reshaped_rows(self.batch_size, self.model.sequence_length, length)
        effective = effective_tokens(rows, length, kept, self.model.layers, len(self.dropped_layers))
        columns: dict[str, Any] = {"sequence_length": length, "kept_tokens": kept, "rows": rows}
        columns |= {"raw_tokens": rows * length, "effective_tokens": effective}
        columns |= {f"cumulative_{name}": np.cumsum(columns[name]) for name in ("raw_tokens", "effective_tokens")}
        return steps.iloc[: len(cases)].assign(**columns)

    def _write_tokens(self) -> None:
        """Documents of about 1,000 tokens; of BERT's in sentences of 20, all of them longer than a sample."""
        first = 0 if self.family == "gpt" else len(_word_pieces(0))
        sentence = 1000 if self.family == "gpt" else 20
        count = -(-SAMPLES * (self.model.sequence_length + 1) // 1000) * 1000
        tokens = first + zipf_tokens(count, self.vocabulary - first).astype(np.int64)
        sizes = np.full(count // sentence, sentence)
        documents = np.full(count // 1000, 1000 // sentence)
        with write_indexed_dataset(self.folder / "tokens", self.vocabulary) as writer:
            writer.add_flat(tokens, sizes, documents)


def write_tokenizer(folder: Path, family: FamilyName, vocabulary: int) -> None:
    """Byte pairs or word pieces with exactly `vocabulary` tokens."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    if family == "gpt":
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        merges = list(islice(product(alphabet, alphabet), vocabulary - len(alphabet) - 1))
        tokens = [*alphabet, *(one + other for one, other in merges), END_OF_TEXT]
        backend = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.add_special_tokens([END_OF_TEXT])
    else:
        pieces = {token: number for number, token in enumerate(_word_pieces(vocabulary))}
        backend = Tokenizer(models.WordPiece(pieces, unk_token=UNKNOWN))
        backend.normalizer = normalizers.BertNormalizer(lowercase=True)
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.add_special_tokens(list(WORD_PIECE_TOKENS))
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / TOKENIZER_FILE))
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})


def _word_pieces(vocabulary: int) -> list[str]:
    """Special tokens and the words of the held-out text first, then as many others as are needed."""
    known = [*WORD_PIECE_TOKENS, ".", *_WORDS]
    return known + [f"word{number}" for number in range(vocabulary - len(known))]


def _text(length: int) -> str:
    """Held-out text of at least 16 samples: sentences of ten words."""
    random = np.random.default_rng(SEED)
    sentences = (" ".join(random.choice(_WORDS, size=10)).capitalize() for _ in range(2 * length))
    return " ".join(f"{sentence}." for sentence in sentences)
