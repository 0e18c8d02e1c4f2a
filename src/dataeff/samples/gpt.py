"""GPT samples: fixed-length windows over the shuffled documents, addressed by Megatron's three index files.

`doc_idx` (int32) is the order of the documents, `sample_idx` (int64 [samples + 1, 2]) where each window begins
(position in doc_idx, offset in that document), `shuffle_idx` (uint32, int64 from 2**32 - 1 samples on) the order in
which the windows are numbered. They are those of Megatron-DeepSpeed's GPTDataset for exact epochs, from the same
numpy generator and to the byte, so that its index files and ours are interchangeable. A window holds sequence_length
+ 1 tokens (inputs, and the labels one further on) and shares its last token with the next.

All three are memory-mapped, in building too. Their size: 4 bytes a document, 20 bytes a sample; 173 million samples of
2048 tokens from 210 million documents take 0.8 + 3.5 GB. Building needs random access to the documents' sizes and,
for Megatron's shuffles, to doc_idx and shuffle_idx: it is fast where those fit into memory (1.5 GB at that size).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

from dataeff.errors import DataeffError
from dataeff.files import atomic_directory, read_json, write_json, write_manifest, write_text
from dataeff.samples.arrays import create_array, id_type, load_array, release
from dataeff.samples.batch import Ids, SampleBatch
from dataeff.samples.split import training_documents
from dataeff.samples.tokens import describe, file_of, first_sequences, open_tokens, tokens_by_type
from dataeff.study.base import FamilyName
from dataeff.study.specs import SamplesSpec
from dataeff.tokens.indexed_dataset import IndexedDataset

FACTS = "samples.json"
ARRAYS = ("doc_idx", "sample_idx", "shuffle_idx")
DESCRIPTION = "description.dsc"
RUN_AGAIN = "run `dataeff samples` again"
_CHECKED_ROWS = 1000


def build(spec: SamplesSpec, prefixes: Sequence[Path], out: Path, train_samples: int | None = None) -> None:
    """Writes out/{doc_idx,sample_idx,shuffle_idx}.npy, samples.json and manifest.json over the token files.

    `train_samples` is how many samples a Megatron run asks for. It matters with several epochs only: Megatron then
    shuffles the last one apart if less than 80% of it is asked for. Without it all epochs are shuffled together.
    """
    datasets = open_tokens(prefixes)
    names = ", ".join(map(str, prefixes))
    sequences = int(first_sequences(datasets)[-1])
    if sequences * spec.epochs > np.iinfo(np.int32).max:
        raise DataeffError(
            f"{names}: {sequences} documents in {spec.epochs} epochs; Megatron counts at most 2**31 - 1: use fewer"
        )
    documents = training_documents(spec.split, sequences)
    per_epoch, length = _count_tokens(datasets, documents), spec.sequence_length
    samples = (spec.epochs * per_epoch - 1) // length
    if samples < 1:
        raise DataeffError(
            f"{names}: {per_epoch} tokens are fewer than one sample's {length + 1}; use a larger corpus or a shorter "
            f"sequence_length"
        )
    apart = _last_epoch_apart(spec.epochs, per_epoch, length, train_samples)
    random = np.random.RandomState(spec.seed)
    with atomic_directory(out) as folder:
        doc_idx = create_array(folder / "doc_idx.npy", (documents * spec.epochs,), np.int32)
        _number(doc_idx, documents)
        together = documents * (spec.epochs - 1 if apart else spec.epochs)
        random.shuffle(doc_idx[:together])
        if apart:
            random.shuffle(doc_idx[together:])
        sample_idx = create_array(folder / "sample_idx.npy", (samples + 1, 2), np.int64)
        sizes = tuple(dataset.sizes for dataset in datasets)
        _locate(doc_idx, sizes, first_sequences(datasets), length, sample_idx)
        shuffle_idx = create_array(folder / "shuffle_idx.npy", (samples,), id_type(samples))
        _number(shuffle_idx, samples)
        first_epochs = ((spec.epochs - 1) * per_epoch - 1) // length if apart else samples
        random.shuffle(shuffle_idx[:first_epochs])
        if apart:
            random.shuffle(shuffle_idx[first_epochs:])
        for array in (doc_idx, sample_idx, shuffle_idx):
            release(array)
        facts = {
            "family": "gpt",
            "samples": samples,
            "sequence_length": length,
            "seed": spec.seed,
            "epochs": spec.epochs,
            "documents": documents,
            "tokens_per_epoch": per_epoch,
            "token_files": describe(datasets),
        }
        write_facts(folder, facts)
        write_manifest(folder)


def write_facts(folder: Path, facts: dict[str, Any]) -> None:
    """samples.json, and the description file without which Megatron makes the index anew (it reads nothing of it)."""
    write_json(folder / FACTS, facts)
    lines = [f"{name}: {facts[name]}" for name in ("samples", "sequence_length", "epochs")]
    write_text(folder / DESCRIPTION, "\n".join(["sample index of dataeff", *lines, ""]))


def _last_epoch_apart(epochs: int, tokens_per_epoch: int, length: int, train_samples: int | None) -> bool:
    if epochs == 1 or train_samples is None:
        return False
    wanted = train_samples - ((epochs - 1) * tokens_per_epoch - 1) // length
    per_epoch = (tokens_per_epoch - 1) // length
    if not 0 <= wanted <= per_epoch + 1:
        raise DataeffError(
            f"train_samples {train_samples} do not end in epoch {epochs} of {per_epoch} samples each, which Megatron "
            f"demands; choose the epochs that the samples need"
        )
    return wanted < int(0.80 * per_epoch)


def _count_tokens(datasets: Sequence[IndexedDataset], documents: int) -> int:
    """Tokens of the first `documents` documents."""
    total, left = 0, documents
    for dataset in datasets:
        taken = min(left, len(dataset))
        total += int(dataset.sizes[:taken].sum(dtype=np.int64))
        left -= taken
    return total


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _number(array: Any, period: int) -> None:
    """0, 1, ..., period - 1, again and again."""
    for index in range(array.size):
        array[index] = index % period


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _locate(doc_idx: Any, sizes: Any, firsts: Any, length: int, sample_idx: Any) -> None:
    """Row i: the document (its position in doc_idx) and offset of token i * length of the epochs.

    Megatron stops each window at its last token, which the next one begins with: a row lies where that token is,
    never at the start of an empty document. Only the first row is fixed at (0, 0).
    """
    sample_idx[0, 0], sample_idx[0, 1] = 0, 0
    row, token, begin = 1, np.int64(length), np.int64(0)
    for position in range(doc_idx.size):
        document = np.int64(doc_idx[position])
        file = file_of(document, firsts)
        end = begin + sizes[file][document - firsts[file]]
        while token < end and row < sample_idx.shape[0]:
            sample_idx[row, 0] = position
            sample_idx[row, 1] = token - begin
            row += 1
            token += length
        begin = end


class Samples:
    """GPT samples of three index arrays, read from their token files; memory-mapped, safe to read from threads.

    `datasets` are the token files, `doc_idx`, `sample_idx` and `shuffle_idx` the arrays, `folder` where they lie.
    """

    family: ClassVar[FamilyName] = "gpt"

    def __init__(self, folder: Path, prefixes: Sequence[Path]) -> None:
        self.folder = Path(folder)
        self.datasets = open_tokens(prefixes)
        facts = read_json(self.folder / FACTS)
        try:
            self.sequence_length = int(facts["sequence_length"])
            self._count = int(facts["samples"])
            # An index of the first version, of one epoch over all documents, does not name the two.
            documents = int(facts.get("documents", sum(map(len, self.datasets)))) * int(facts.get("epochs", 1))
            described = facts["token_files"]
        except (KeyError, TypeError, ValueError, AttributeError):
            raise DataeffError(f"{self.folder / FACTS}: not the facts of a GPT sample index; {RUN_AGAIN}") from None
        found = describe(self.datasets)
        if described != found:
            raise DataeffError(
                f"{self.folder / FACTS}: made for the token files {described}, given {found}; {RUN_AGAIN}"
            )
        if self._count < 1 or self.sequence_length < 1:
            raise DataeffError(
                f"{self.folder / FACTS}: {self._count} samples of {self.sequence_length} tokens; {RUN_AGAIN}"
            )
        self.doc_idx = load_array(self.folder / "doc_idx.npy", (documents,), "i", RUN_AGAIN)
        self.sample_idx = load_array(self.folder / "sample_idx.npy", (self._count + 1, 2), "i", RUN_AGAIN)
        self.shuffle_idx = load_array(self.folder / "shuffle_idx.npy", (self._count,), "iu", RUN_AGAIN)
        self._first_documents = first_sequences(self.datasets)
        self._sizes = tuple(dataset.sizes for dataset in self.datasets)
        self._pointers = tuple(dataset.pointers for dataset in self.datasets)
        self._tokens = tokens_by_type(self.datasets)
        self._check_length()

    @property
    def width(self) -> int:
        return self.sequence_length + 1

    def __len__(self) -> int:
        return self._count

    def read(self, ids: Ids) -> NDArray[np.int64]:
        """Tokens [len(ids), sequence_length + 1] of the samples with these numbers."""
        ids = np.asarray(ids)
        if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < self._count:
            raise ValueError(f"sample ids from {ids.min()} to {ids.max()}; there are {self._count} samples")
        try:
            rows = self.sample_idx[self.shuffle_idx[ids]]
        except IndexError:
            raise self._bad_entry() from None
        tokens = np.empty((len(ids), self.width), dtype=np.int64)
        places = self._first_documents, self._sizes, self._pointers
        for present, files in self._tokens:
            if not _copy_tokens(rows, self.doc_idx, *places, present, files, tokens):
                raise self._bad_entry()
        return tokens

    def batch(self, ids: Ids) -> SampleBatch:
        tokens = self.read(ids)
        return SampleBatch(tokens, np.full(len(tokens), self.width, dtype=np.int32))

    def release(self) -> None:
        """Gives the pages read so far back to the system."""
        for dataset in self.datasets:
            dataset.release()
        for array in (self.doc_idx, self.sample_idx, self.shuffle_idx):
            release(array)

    def _check_length(self) -> None:
        """Some windows must be as long as the sequence length says: it may be that of another index."""
        rows = np.linspace(0, self._count - 1, num=min(self._count, _CHECKED_ROWS), dtype=np.int64)
        lengths = np.zeros(len(rows), dtype=np.int64)
        if not _window_lengths(rows, self.sample_idx, self.doc_idx, self._sizes, self._first_documents, lengths):
            raise self._bad_entry()
        wrong = np.flatnonzero(lengths != self.sequence_length)
        if len(wrong):
            raise DataeffError(
                f"{self.folder}: window {rows[wrong[0]]} of its sample_idx has {lengths[wrong[0]]} tokens, not "
                f"{self.sequence_length}; give the sequence length that the index was made with, or make it again"
            )

    def _bad_entry(self) -> DataeffError:
        return DataeffError(f"{self.folder}: an entry of its arrays points outside the tokens; {RUN_AGAIN}")


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _window_lengths(rows: Any, sample_idx: Any, doc_idx: Any, sizes: Any, firsts: Any, lengths: Any) -> bool:
    """Tokens from each of these windows' beginning to the next one's; False if an entry points nowhere."""
    for index in range(rows.size):
        row = rows[index]
        position, last = sample_idx[row, 0], sample_idx[row + 1, 0]
        if position < 0 or last < position or last >= doc_idx.size:
            return False
        total = sample_idx[row + 1, 1] - sample_idx[row, 1]
        while position < last:
            document = np.int64(doc_idx[position])
            if document < 0 or document >= firsts[-1]:
                return False
            file = file_of(document, firsts)
            total += sizes[file][document - firsts[file]]
            position += 1
        lengths[index] = total
    return True


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _copy_tokens(
    rows: Any, doc_idx: Any, firsts: Any, sizes: Any, pointers: Any, present: Any, tokens: Any, out: Any
) -> bool:
    """Fills in what the token files of one type hold of each window; False if an entry points nowhere."""
    length, item_bytes = out.shape[1], tokens[0].itemsize
    for row in range(rows.shape[0]):
        position, offset, filled = np.int64(rows[row, 0]), np.int64(rows[row, 1]), 0
        while filled < length:
            if position < 0 or position >= doc_idx.size:
                return False
            document = np.int64(doc_idx[position])
            if document < 0 or document >= firsts[-1]:
                return False
            file = file_of(document, firsts)
            here = document - firsts[file]
            size = np.int64(sizes[file][here])
            if offset < 0 or offset > size:
                return False
            taken = min(length - filled, size - offset)
            if present[file]:
                start, source = pointers[file][here] // item_bytes + offset, tokens[file]
                for index in range(taken):
                    out[row, filled + index] = source[start + index]
            filled += taken
            position += 1
            offset = np.int64(0)
    return True
