"""What a difficulty index says, for a person: how the values are spread, and what is easy and hard on their own data.

It reads the native form, DeepSpeed's files (ours or its own analyser's), or the folder of a standalone analysis, which
knows where its samples and tokens lie. Everything is read in blocks: an index of any size opens at once.
"""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dataeff.analyze.deepspeed_format import INDEX_TO_SAMPLE, is_deepspeed_index, open_deepspeed_index
from dataeff.analyze.difficulty import DifficultyIndex
from dataeff.analyze.folder import ANALYSIS
from dataeff.analyze.metrics import METRICS
from dataeff.analyze.reduce import FACTS
from dataeff.analyze.text_metrics import text_decoder
from dataeff.errors import DataeffError, unknown_name
from dataeff.files import read_json
from dataeff.samples import FACTS as SAMPLES_FACTS
from dataeff.samples import SpecialIds, open_samples
from dataeff.tokens.indexed_dataset import idx_path
from dataeff.tokens.tokenizer import Tokenizer, load

PERCENTILES = (1, 5, 25, 50, 75, 95, 99, 100)
ROWS = 20
WIDTH = 79
SHOWN_CHARACTERS = 300
SHOWN_IDS = 40
_BLOCK = 1 << 20
_EIGHTHS = " ▏▎▍▌▋▊▉"


@dataclass(frozen=True, slots=True)
class Found:
    """An index and where it was found."""

    index: DifficultyIndex
    folder: Path
    form: str

    @property
    def about(self) -> str:
        metric = METRICS.get(self.index.metric)
        return f"{metric.about}, in {metric.unit}" if metric else "a metric of somebody's own"


@dataclass(frozen=True, slots=True)
class Places:
    """Where the samples of an index lie, as far as it is known."""

    samples: Path | None
    tokens: tuple[Path, ...]
    special_ids: SpecialIds | None = None


def find_index(folder: Path, metric: str | None = None) -> Found:
    """The index in a metric's folder, or the one of `metric` in a folder of several."""
    folder = Path(folder)
    if not folder.is_dir():
        raise DataeffError(f"{folder}: no such folder; give the folder of an index or of an analysis")
    own = _metric_of(folder)
    if own is not None:
        if metric not in (None, own):
            raise DataeffError(f"{folder}: an index of '{own}', asked for is '{metric}'; give the folder above")
        return _open(folder, own)
    below = {name: path for path in sorted(folder.iterdir()) if path.is_dir() and (name := _metric_of(path))}
    if not below:
        raise DataeffError(
            f"{folder}: no difficulty index: neither value.npy with {FACTS} nor *_{INDEX_TO_SAMPLE}.idx; analyze first"
        )
    if metric is None and len(below) > 1:
        raise DataeffError(f"{folder}: indexes of {', '.join(below)}; choose one with --metric")
    if metric is not None and metric not in below:
        raise unknown_name("metric", metric, below, str(folder))
    name = metric or next(iter(below))
    return _open(below[name], name)


def _metric_of(folder: Path) -> str | None:
    """The metric whose index lies in this very folder."""
    if (folder / "value.npy").is_file():
        return str(read_json(folder / FACTS).get("metric"))
    end = f"_{INDEX_TO_SAMPLE}.idx"
    return next((path.name.removesuffix(end) for path in sorted(folder.glob(f"*{end}"))), None)


def _open(folder: Path, metric: str) -> Found:
    if (folder / "value.npy").is_file():
        return Found(DifficultyIndex.open(folder), folder, "native")
    assert is_deepspeed_index(folder, metric)
    return Found(open_deepspeed_index(folder, metric), folder, "DeepSpeed's")


def find_places(found: Found, samples: Path | None, tokens: Sequence[Path]) -> Places:
    """What the options say, or else what the analysis around the index knows."""
    path = found.folder.parent / ANALYSIS
    if samples is not None and tokens:
        facts = read_json(path) if path.is_file() else {}
    elif samples is not None or tokens:
        raise DataeffError("--samples-dir and --tokens go together; give both")
    elif path.is_file():
        facts = read_json(path)
        samples, tokens = path.parent / "samples", [Path(file["prefix"]) for file in facts["token_files"]]
    else:
        return _places_of_study(found.folder)
    ids = facts.get("special_ids")
    return Places(samples, tuple(map(Path, tokens)), None if ids is None else SpecialIds(**ids))


def _places_of_study(folder: Path) -> Places:
    """Of an index in a study's results: {tokenizer}/{family}-{length}/analyze/{metric}; none elsewhere."""
    item = folder.absolute().parent.parent
    facts = item / "samples" / SAMPLES_FACTS
    if not facts.is_file():
        return Places(None, ())
    tokens = tuple(item.parent / "tokens" / str(file["name"]) for file in read_json(facts)["token_files"])
    return Places(facts.parent, tokens) if all(idx_path(prefix).is_file() for prefix in tokens) else Places(None, ())


def value_at(index: DifficultyIndex, percentile: int) -> int:
    """The value that this share of the samples does not exceed."""
    rank = max(1, -(-percentile * len(index) // 100))
    return int(index.values[index.order[rank - 1]])


def percentile_table(indexes: Sequence[DifficultyIndex]) -> str:
    """A line per percentile, a column per metric: the value that this share of the samples does not exceed."""
    columns = [[index.metric, *(f"{value_at(index, percentile):,}" for percentile in PERCENTILES)] for index in indexes]
    widths = [max(map(len, column)) for column in columns]
    lines = []
    for name, row in zip(
        ["", *(f"{percentile}%" for percentile in PERCENTILES)], zip(*columns, strict=True), strict=True
    ):
        cells = [f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join([f"  {name:>4}", *cells]))
    return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Bins:
    """`counts`[i] samples have values from `edges`[i] to below `edges`[i + 1]; `below` and `above` have others."""

    edges: NDArray[np.int64]
    counts: NDArray[np.int64]
    below: int
    above: int

    @classmethod
    def of(cls, index: DifficultyIndex, rows: int) -> Bins:
        """Bins of equal, whole width that hold all but half a percent of the samples at each end: tails may be long."""
        samples = len(index)
        low, high = (int(index.values[index.order[rank]]) for rank in (samples // 200, samples - 1 - samples // 200))
        width = max(1, -(-(high - low + 1) // rows))
        number = (high - low) // width + 1
        counts = np.zeros(number + 2, dtype=np.int64)
        for first in range(0, samples, _BLOCK):
            block = index.values[first : first + _BLOCK].astype(np.int64)
            counts += np.bincount(np.clip((block - low) // width + 1, 0, number + 1), minlength=number + 2)
        edges = low + width * np.arange(number + 1, dtype=np.int64)
        return cls(edges, counts[1:-1], int(counts[0]), int(counts[-1]))


def histogram(index: DifficultyIndex) -> str:
    """Bars of samples per range of values, one line each; the first and the last range take the tails in."""
    bins = Bins.of(index, ROWS)
    counts = bins.counts.copy()
    counts[0] += bins.below
    counts[-1] += bins.above
    inner = bins.edges[1:-1].tolist()
    starts = [f"{edge:,}" for edge in [value_at(index, 0), *inner]]
    stops = [f"{edge - 1:,}" for edge in [*inner, value_at(index, 100) + 1]]
    wide = max(map(len, [*starts, *stops]))
    room = WIDTH - (2 * wide + 4) - len(" 100.0%")
    lines = []
    for start, stop, count in zip(starts, stops, counts.tolist(), strict=True):
        eighths = round(8 * room * count / int(counts.max()))
        bar = ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).rstrip()
        lines.append(f"  {start:>{wide}}–{stop:>{wide}} {bar or ('▏' if count else '')} {count / len(index):.1%}")
    return "\n".join(lines)


def safe_text(text: str, characters: int) -> str:
    """The first characters, with ends of lines as ⏎ and whatever could steer a terminal as its code."""
    shown = []
    for character in text[:characters]:
        if character == "\n":
            shown.append("⏎ ")
        elif character == "\t":
            shown.append("⇥ ")
        elif unicodedata.category(character).startswith("C") or character in "\u2028\u2029":
            shown.append(character.encode("unicode_escape").decode())
        else:
            shown.append(character)
    return "".join(shown) + ("…" if len(text) > characters else "")


def sample_lines(found: Found, places: Places, tokenizer: Path | None, count: int) -> Iterator[str]:
    """The easiest and the hardest samples, as text where a tokenizer is given and as token ids otherwise."""
    if places.samples is None:
        yield "To see samples, say where they lie: --samples-dir FOLDER --tokens PREFIX..., and --tokenizer FOLDER."
        return
    loaded = None if tokenizer is None else load(tokenizer)
    samples = open_samples(places.samples, places.tokens, _special_ids(loaded, places))
    if len(samples) != len(found.index):
        raise DataeffError(
            f"{found.folder}: an index of {len(found.index):,} samples, {places.samples} has {len(samples):,}; give "
            f"the samples that were analyzed"
        )
    if loaded is None:
        yield "Samples are shown as token ids: their text needs --tokenizer FOLDER."
        yield ""
    count = min(count, len(samples))
    hardest = np.asarray(found.index.order[len(samples) - count :])[::-1]
    for title, chosen in (("easiest", np.asarray(found.index.order[:count])), ("hardest", hardest)):
        batch = samples.batch(chosen.astype(np.int64))
        for id, row, length in zip(chosen.tolist(), batch.tokens, batch.lengths.tolist(), strict=True):
            yield f"{title}: sample {id:,}, {found.index.metric} {int(found.index.values[id]):,}, {length:,} tokens"
            tokens = row[:length].tolist()
            text = _ids(tokens) if loaded is None else safe_text(text_decoder(loaded)(tokens), SHOWN_CHARACTERS)
            yield textwrap.fill(text, WIDTH, initial_indent="    ", subsequent_indent="    ") or "    (no text)"
            yield ""


def decoded(places: Places, tokenizer: Path, samples: Sequence[int], characters: int) -> list[str]:
    """The beginnings of samples as text that is safe to show."""
    assert places.samples is not None
    loaded = load(tokenizer)
    opened = open_samples(places.samples, places.tokens, _special_ids(loaded, places))
    text_of, batch = text_decoder(loaded), opened.batch(np.asarray(samples, dtype=np.int64))
    rows = zip(batch.tokens, batch.lengths.tolist(), strict=True)
    return [safe_text(text_of(row[:length].tolist()), characters) for row, length in rows]


def _special_ids(loaded: Tokenizer | None, places: Places) -> SpecialIds | None:
    """Of the tokenizer where one is given, else as the analysis knows them."""
    if loaded is not None and loaded.form == "word_pieces":
        return SpecialIds(loaded.cls_id, loaded.sep_id, loaded.pad_id)
    return places.special_ids


def _ids(tokens: list[int]) -> str:
    return " ".join(map(str, tokens[:SHOWN_IDS])) + (" …" if len(tokens) > SHOWN_IDS else "")
