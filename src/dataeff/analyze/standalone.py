"""Difficulty of anybody's Megatron token files, without a study: samples, parts on several processes, indexes.

    token files -> samples (Megatron's index files) -> [frequencies] -> per metric: parts -> index, or DeepSpeed's files

It is what Megatron-DeepSpeed's analyze_data.py is for, in one command instead of map and reduce per metric, and can be
stopped anywhere: what is done is found again in the folder (folder.py) and left as it is.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from dataeff.analyze.compiled import keep_compiled
from dataeff.analyze.deepspeed_format import add_pairs, is_deepspeed_index, write_frequency, write_metric
from dataeff.analyze.folder import AnalysisFolder, file_facts, token_files
from dataeff.analyze.map import load_frequency, part_range, special_ids, storing
from dataeff.analyze.metrics import METRICS, find_metric, frequency_bins
from dataeff.analyze.pool import Pool
from dataeff.analyze.reduce import FACTS, reduce, reduce_frequency
from dataeff.analyze.worker import Task
from dataeff.errors import DataeffError
from dataeff.families.traits import TRAITS
from dataeff.files import read_json, sha256_file
from dataeff.samples import FACTS as SAMPLES_FACTS
from dataeff.samples import SpecialIds, adopt_mapping, adopt_windows, build
from dataeff.study.base import FamilyName
from dataeff.study.specs import SamplesSpec
from dataeff.study.types import FREQUENCY, Split
from dataeff.tokens.indexed_dataset import IndexedDataset
from dataeff.tokens.tokenizer import TOKENIZER_FILE, load

Format = Literal["native", "deepspeed"]

SAMPLES_PER_PART = 1 << 23
PARTS_PER_WORKER = 4


@dataclass(frozen=True, slots=True)
class Analyzed:
    """What lies in the folder at the end."""

    folder: AnalysisFolder
    family: FamilyName
    samples: int
    metrics: tuple[str, ...]
    format: Format
    token_files: tuple[Path, ...]


def analyze_tokens(
    prefixes: Sequence[Path],
    family: FamilyName,
    sequence_length: int,
    metrics: Sequence[str],
    out: Path,
    *,
    format: Format = "native",
    workers: int | None = None,
    split: Split | None = None,
    seed: int = 1234,
    epochs: int = 1,
    train_samples: int | None = None,
    short_seq_prob: float = 0.1,
    tokenizer: Path | None = None,
    padded_vocab_size: int | None = None,
    special: SpecialIds | None = None,
    existing: Mapping[str, Path] | None = None,
) -> Analyzed:
    """Writes the metrics' indexes of all samples of the token files to the folder `out`.

    `tokenizer` is needed by metrics that read text; those that weigh tokens need it or `padded_vocab_size`, sentence
    pairs it or `special`. `existing`: Megatron's own index files (doc_idx, sample_idx and shuffle_idx, or
    samples_mapping), used as they are in place of new ones.
    """
    keep_compiled()
    loaded = None if tokenizer is None else load(tokenizer)
    if loaded is not None:
        padded_vocab_size = padded_vocab_size or loaded.padded_vocab_size()
        special = special or special_ids(loaded)
    _check(metrics, family, tokenizer, padded_vocab_size, special)
    spec = SamplesSpec(
        family=family,
        sequence_length=sequence_length,
        seed=seed,
        epochs=epochs,
        split=split,
        short_seq_prob=short_seq_prob if TRAITS[family].sentence_pairs else None,
    )
    for prefix in prefixes:
        IndexedDataset(prefix)  # a damaged one is told before anything is made
    folder, workers = AnalysisFolder(Path(out)), workers or len(os.sched_getaffinity(0))
    tokens = tuple(Path(prefix).resolve() for prefix in prefixes)
    special = special if TRAITS[family].sentence_pairs else None
    with folder.owned():
        folder.begin(_computation(spec, prefixes, special, train_samples, existing or {}))
        todo = [name for name in metrics if name != FREQUENCY and not _is_there(folder, name, format, tokenizer)]
        counted = padded_vocab_size is not None and (FREQUENCY in metrics or any(map(_weighs, todo)))
        with Pool.of(workers if todo or counted else 0) as pool:
            samples = _make_samples(folder, spec, prefixes, train_samples, existing or {})
            parts = min(samples, max(PARTS_PER_WORKER * workers, -(-samples // SAMPLES_PER_PART)))
            work = _Work(folder, tokens, samples, pool, folder.part_count(parts), tokenizer, special)
            if padded_vocab_size is not None and counted:
                work.count_tokens(frequency_bins(padded_vocab_size))
            work.measure(todo)
        for name in todo:
            work.reduce(name, format)
        if format == "deepspeed" and folder.frequency.exists() and not folder.metric(FREQUENCY).exists():
            write_frequency(folder.frequency, folder.metric(FREQUENCY))
        shutil.rmtree(folder.all_parts)
    return Analyzed(folder, family, samples, tuple(metrics), format, tokens)


@dataclass(frozen=True, slots=True)
class _Work:
    """Samples that are there, and the workers for them."""

    folder: AnalysisFolder
    tokens: tuple[Path, ...]
    samples: int
    pool: Pool
    parts: int
    tokenizer: Path | None
    special: SpecialIds | None

    def tasks(self, metric: str, out: Path, **needs: Any) -> list[tuple[Task, int]]:
        """(task, samples of it) of every part."""
        special = None if self.special is None else asdict(self.special)
        places = (str(self.folder.samples), [str(prefix) for prefix in self.tokens], str(out), special)
        ranges = [part_range(self.samples, part, self.parts) for part in range(self.parts)]
        tasks = [Task(metric, part, self.parts, *places, **needs) for part in range(self.parts)]
        return [(task, last - first) for task, (first, last) in zip(tasks, ranges, strict=True)]

    def count_tokens(self, bins: int) -> None:
        """Makes total_vocab_freq.npy, or sees that it is of this vocabulary."""
        if self.folder.frequency.exists():
            found = len(load_frequency(self.folder.frequency))
            if found != bins:
                raise DataeffError(
                    f"{self.folder.frequency}: counts of a padded vocabulary of {found - 1}, asked for is {bins - 1}; "
                    f"give another folder, or the same vocabulary"
                )
            return
        out = self.folder.parts(FREQUENCY)
        self.pool.run(f"analyze {FREQUENCY}", self.tasks(FREQUENCY, out, bins=bins))
        reduce_frequency(out, self.parts, self.folder.frequency)

    def measure(self, metrics: Sequence[str]) -> None:
        """Makes all parts of the metrics."""
        tasks = []
        for name in metrics:
            needs = METRICS[name].needs
            frequency = str(self.folder.frequency) if needs == "frequency" else None
            tokenizer = str(self.tokenizer) if needs == "text" else None
            tasks += self.tasks(name, self.folder.parts(name), frequency=frequency, tokenizer=tokenizer)
        if tasks:
            self.pool.run(f"analyze {', '.join(metrics)}", tasks)

    def reduce(self, metric: str, format: Format) -> None:
        """Makes the metric's index of its parts."""
        out = self.folder.metric(metric)
        if format == "native":
            reduce(self.folder.parts(metric), self.parts, out)
            return
        native = self.folder.all_parts / f"{metric}-native"
        reduce(self.folder.parts(metric), self.parts, native)
        write_metric(native, out)
        shutil.rmtree(native)


def _check(
    metrics: Sequence[str],
    family: FamilyName,
    tokenizer: Path | None,
    padded_vocab_size: int | None,
    special: SpecialIds | None,
) -> None:
    """Refuses before anything is read what could not end well."""
    if not metrics:
        raise DataeffError(f"no metric is named; choose from {', '.join([FREQUENCY, *METRICS])}")
    for name in metrics:
        needs = "frequency" if name == FREQUENCY else find_metric(name, "dataeff analyze", family).needs
        if needs == "text" and tokenizer is None:
            raise DataeffError(f"metric '{name}' reads a sample's text; give the tokenizer's folder (--tokenizer)")
        if needs == "frequency" and padded_vocab_size is None:
            raise DataeffError(
                f"metric '{name}' counts the tokens of the vocabulary; give its size (--vocab-size) or the tokenizer's "
                f"folder (--tokenizer): the tokens themselves do not tell it"
            )
    if TRAITS[family].sentence_pairs and special is None:
        raise DataeffError(
            "sentence pairs are framed by special tokens; give their ids (--special-ids CLS,SEP,PAD; 101,102,0 in "
            "BERT's published uncased vocabulary) or the folder of a word-piece tokenizer (--tokenizer)"
        )


def _weighs(metric: str) -> bool:
    return METRICS[metric].needs == "frequency"


def _computation(
    spec: SamplesSpec,
    prefixes: Sequence[Path],
    special: SpecialIds | None,
    train_samples: int | None,
    existing: Mapping[str, Path],
) -> dict[str, Any]:
    """Everything that decides what the samples are."""
    return {
        **spec.model_dump(mode="json"),
        "train_samples": train_samples,
        "special_ids": None if special is None else asdict(special),
        "existing": {name: file_facts(path) for name, path in existing.items()},
        "token_files": token_files(prefixes),
    }


def _make_samples(
    folder: AnalysisFolder,
    spec: SamplesSpec,
    prefixes: Sequence[Path],
    train_samples: int | None,
    existing: Mapping[str, Path],
) -> int:
    """Builds the sample index, or takes the existing files, unless it is there; the number of samples."""
    if not folder.samples.exists():
        print(f"analyze: {'taking' if existing else 'building'} the sample index", flush=True)
        with storing(folder.samples):
            if not existing:
                build(spec, prefixes, folder.samples, train_samples)
            elif "samples_mapping" in existing:
                adopt_mapping(existing["samples_mapping"], prefixes, spec.sequence_length, spec.seed, folder.samples)
            else:
                adopt_windows(existing, prefixes, spec.sequence_length, folder.samples)
    return int(read_json(folder.samples / SAMPLES_FACTS)["samples"])


def _is_there(folder: AnalysisFolder, metric: str, format: Format, tokenizer: Path | None) -> bool:
    """Whether the metric's index is there in this form; a native one is brought into DeepSpeed's."""
    out = folder.metric(metric)
    if not out.exists():
        return False
    made_by = read_json(out / FACTS).get("tokenizer_sha256")
    if made_by is not None and tokenizer is not None and made_by != sha256_file(tokenizer / TOKENIZER_FILE):
        raise DataeffError(f"{out}: made with another tokenizer; give another folder, or delete this one")
    native, theirs = (out / "value.npy").is_file(), is_deepspeed_index(out, metric)
    if format == "native" and not native:
        raise DataeffError(f"{out}: it is there in DeepSpeed's form; give another folder for the native one")
    if format == "deepspeed" and not theirs:
        add_pairs(out)
    return True
