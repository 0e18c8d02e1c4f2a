"""The map of the analysis: one part of the samples at a time, each part one process's or node's work.

A part is a contiguous range of sample ids. It leaves two files: {part}.npy with the values (or, for the frequencies,
the counts) and {part}.json with what they are of: reduce.py puts together only parts that were made of the same. A
part that is there and sound is kept, so that a job that was stopped goes on where it was.

Token files are mapped, not read: what is resident is given back as it grows, so that memory stays bounded on a corpus
of any size.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from dataeff.analyze.metrics import Metric, MetricContext, count_tokens, find_metric, frequency_bins
from dataeff.analyze.text_metrics import text_decoder
from dataeff.analyze.windows import BLOCK_WINDOWS, Windows
from dataeff.errors import DataeffError
from dataeff.files import MANIFEST, atomic_path, canonical_digest, read_json, sha256_file, write_json
from dataeff.progress import Progress
from dataeff.samples import FACTS as SAMPLES_FACTS
from dataeff.samples import PairSamples, Samples, SpecialIds, load_array, open_samples
from dataeff.study.types import FREQUENCY
from dataeff.tokens.tokenizer import TOKENIZER_FILE, Tokenizer, load

BLOCK_TOKENS = 1 << 21
"""Tokens of batches that one thread works on at a time."""
RESIDENT_LIMIT_BYTES = 1 << 29
"""Mapped pages are given back when the process holds more than this."""


def part_range(samples: int, part: int, parts: int) -> tuple[int, int]:
    """The sample ids [first, last) of a part: DeepSpeed's even split."""
    if not 0 <= part < parts:
        raise DataeffError(f"part {part} of {parts}; parts are numbered from 0 to {parts - 1}")
    bounds = np.linspace(0, samples, num=parts + 1, dtype=np.int64)
    return int(bounds[part]), int(bounds[part + 1])


def part_files(folder: Path, part: int) -> tuple[Path, Path]:
    """Values and facts of a part."""
    return Path(folder) / f"{part}.npy", Path(folder) / f"{part}.json"


def map_frequency(
    samples: Path,
    tokens: Sequence[Path],
    tokenizer: Path,
    part: int,
    parts: int,
    out: Path,
    threads: int | None = None,
    again: bool = False,
) -> None:
    """Writes out/{part}.npy: int64 [padded vocabulary + 1], how often each token id occurs in this part."""
    loaded = load(tokenizer)
    bins, special = frequency_bins(loaded.padded_vocab_size()), special_ids(loaded)
    count_part(samples, tokens, bins, part, parts, out, special=special, threads=threads, again=again)


def count_part(
    samples: Path,
    tokens: Sequence[Path],
    bins: int,
    part: int,
    parts: int,
    out: Path,
    *,
    special: SpecialIds | None = None,
    threads: int | None = None,
    again: bool = False,
) -> None:
    """As map_frequency, of a vocabulary of any number of bins; `special` is needed by sentence pairs.

    A token that ends one GPT sample and begins the next counts for both, since both train on it. Parts of windows are
    counted in the order of the epoch, in which neighbours share a document: over all parts it is the same sum.
    """
    opened = open_samples(samples, tokens, special)
    first, last = part_range(len(opened), part, parts)
    facts = _facts(FREQUENCY, opened, part, parts) | {"bins": bins}
    if not again and _is_done(out, part, facts):
        return
    counts = np.zeros(bins, dtype=np.int64)
    for found in _blocks(opened, _counter(opened, bins), first, last, f"analyze {FREQUENCY}", threads):
        counts += found
    _write(out, part, bins, counts.dtype, [counts], facts)


def map_part(
    metric: str,
    samples: Path,
    tokens: Sequence[Path],
    part: int,
    parts: int,
    out: Path,
    *,
    frequency: Path | None = None,
    tokenizer: Path | None = None,
    special: SpecialIds | None = None,
    threads: int | None = None,
    again: bool = False,
) -> None:
    """Writes out/{part}.npy: the difficulty of each sample of the part, in the smallest integer type that holds them.

    `frequency` (.npy of counts) is needed by metrics that weigh tokens, `tokenizer` by those that read text, and by
    sentence pairs one of `tokenizer` and `special`.
    """
    loaded = None if tokenizer is None else load(tokenizer)
    opened = open_samples(samples, tokens, special or (special_ids(loaded) if loaded else None))
    found = find_metric(metric, f"analyze {opened.family}", opened.family)
    context, made_of = _context(found, metric, opened, frequency, loaded)
    first, last = part_range(len(opened), part, parts)
    facts = _facts(metric, opened, part, parts) | made_of
    # Text is read under Python's lock: a second thread would only wait for it. More parts are what is faster.
    threads = 1 if found.needs == "text" else threads
    if not again and _is_done(out, part, facts):
        return
    blocks = []
    for block in _blocks(opened, _valuer(found, opened, context), first, last, f"analyze {metric}", threads):
        blocks.append(block.astype(integer_type(int(block.min()), int(block.max()))))
    low, high = (
        min((int(block.min()) for block in blocks), default=0),
        max((int(block.max()) for block in blocks), default=0),
    )
    _write(out, part, last - first, integer_type(low, high), blocks, facts | {"min": low, "max": high})


def integer_type(low: int, high: int) -> np.dtype[Any]:
    """The smallest type for integers from low to high, without a sign where none is negative: DeepSpeed's rule."""
    kinds = (np.uint8, np.uint16, np.uint32, np.uint64) if low >= 0 else (np.int8, np.int16, np.int32, np.int64)
    return np.dtype(next(kind for kind in kinds if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max))


def load_frequency(path: Path) -> NDArray[np.int64]:
    counts = load_array(path, (None,), "i", "run `dataeff analyze frequency` again")
    if len(counts) == 0 or int(counts.min()) < 0:
        raise DataeffError(f"{path}: no counts of tokens (empty or negative); run `dataeff analyze frequency` again")
    return counts


def special_ids(tokenizer: Tokenizer) -> SpecialIds | None:
    """What frames sentence pairs; byte pairs have nothing of the kind."""
    if tokenizer.form == "byte_pairs":
        return None
    return SpecialIds(tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id)


def _context(
    metric: Metric, name: str, samples: Samples | PairSamples, frequency: Path | None, tokenizer: Tokenizer | None
) -> tuple[MetricContext, dict[str, Any]]:
    """What the metric looks at, and the digests of the files that it was read from."""
    length = samples.sequence_length
    if metric.needs == "frequency":
        if frequency is None:
            raise DataeffError(f"metric '{name}' weighs tokens by how often they occur; pass --frequency")
        counts = load_frequency(frequency)
        return MetricContext.of(length, counts), {"frequency_sha256": sha256_file(frequency)}
    if metric.needs == "text":
        if tokenizer is None:
            raise DataeffError(f"metric '{name}' reads a sample's text; pass --tokenizer")
        return (
            MetricContext.of(length, decode=text_decoder(tokenizer)),
            {"tokenizer_sha256": sha256_file(tokenizer.folder / TOKENIZER_FILE)},
        )
    return MetricContext.of(length), {}


def _facts(metric: str, samples: Samples | PairSamples, part: int, parts: int) -> dict[str, Any]:
    first, last = part_range(len(samples), part, parts)
    return {
        "metric": metric,
        "family": samples.family,
        "sequence_length": samples.sequence_length,
        "samples": len(samples),
        "samples_digest": _digest(samples.folder),
        "part": part,
        "parts": parts,
        "first": first,
        "last": last,
    }


def _digest(folder: Path) -> str:
    """Of what the samples are: their facts and, where their maker left one, the manifest of their files."""
    manifest = folder / MANIFEST
    return canonical_digest([read_json(folder / SAMPLES_FACTS), read_json(manifest) if manifest.is_file() else None])


def _is_done(out: Path, part: int, facts: dict[str, Any]) -> bool:
    """Whether the part is there, was made of the same, and is as it was written."""
    values, description = part_files(out, part)
    if not (values.is_file() and description.is_file()):
        return False
    try:
        found = read_json(description)
        return bool(
            all(found.get(key) == value for key, value in facts.items()) and found.get("sha256") == sha256_file(values)
        )
    except (DataeffError, AttributeError):
        return False


def _write(
    out: Path, part: int, count: int, dtype: np.dtype[Any], blocks: Sequence[NDArray[Any]], facts: dict[str, Any]
) -> None:
    """The facts go last: values without them, or with those of others, do not count as a part."""
    path, description = part_files(out, part)
    with storing(path):
        with atomic_path(path) as temporary:
            with temporary.open("wb") as stream:
                write_header(stream, dtype, count)
                for block in blocks:
                    stream.write(block.astype(dtype).data)
            digest = sha256_file(temporary)
        write_json(description, facts | {"sha256": digest})


def write_header(stream: BinaryIO, dtype: np.dtype[Any], count: int) -> None:
    """The start of a one-dimensional .npy, as numpy.save writes it; the bytes of the array follow."""
    descr = np.lib.format.dtype_to_descr(dtype)
    np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": (count,)})


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """What the system refuses to write, said for people."""
    try:
        yield
    except OSError as error:
        raise DataeffError(
            f"{path}: cannot be written ({error.strerror or error}); make room or choose another place, then run again"
        ) from error


@dataclass(frozen=True, slots=True)
class _Work:
    """What to do with the samples [first, last), and how many to do it with at a time."""

    do: Callable[[int, int], NDArray[np.int64]]
    rows: int


def _counter(samples: Samples | PairSamples, bins: int) -> _Work:
    if Windows.fit(samples):
        windows = Windows(samples, lambda: relieve(samples))
        return _Work(lambda first, last: windows.count(first, last, bins), BLOCK_WINDOWS)
    return _Work(lambda first, last: count_tokens(samples.batch(np.arange(first, last)), bins), _batch_rows(samples))


def _valuer(metric: Metric, samples: Samples | PairSamples, context: MetricContext) -> _Work:
    if metric.weights is not None and Windows.fit(samples):
        windows, weights = Windows(samples, lambda: relieve(samples)), metric.weights(context)
        return _Work(lambda first, last: windows.sums(windows.of_samples(first, last), weights), BLOCK_WINDOWS)
    return _Work(
        lambda first, last: metric.difficulty(samples.batch(np.arange(first, last)), context), _batch_rows(samples)
    )


def _batch_rows(samples: Samples | PairSamples) -> int:
    return max(1, BLOCK_TOKENS // samples.width)


def _blocks(
    samples: Samples | PairSamples, work: _Work, first: int, last: int, name: str, threads: int | None
) -> Iterator[NDArray[np.int64]]:
    """The result of each block of the samples [first, last), in order; a few blocks in flight at once."""
    workers = threads or len(os.sched_getaffinity(0))
    rows = max(1, min(work.rows, -(-(last - first) // workers)))
    progress = Progress(name, last - first, "samples")
    blocks = iter([(start, min(start + rows, last)) for start in range(first, last, rows)])
    with ThreadPoolExecutor(workers) as pool:
        waiting = [(block[1], pool.submit(work.do, *block)) for block in islice(blocks, 2 * workers)]
        while waiting:
            end, future = waiting.pop(0)
            yield future.result()
            waiting += [(block[1], pool.submit(work.do, *block)) for block in islice(blocks, 1)]
            progress.show(end - first)
            relieve(samples)


def relieve(samples: Samples | PairSamples) -> None:
    """Gives the mapped pages back when they are many."""
    if resident_bytes() > RESIDENT_LIMIT_BYTES:
        samples.release()


def resident_bytes() -> int:
    """Memory of this process that is in RAM, mapped pages included."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
