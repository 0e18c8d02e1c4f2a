"""Training shards, held-out files and a data card, from the fetched files of a pooled corpus's sources.

    read -> clean -> drop duplicates -> cut sources to size -> hold out of each domain -> shuffle -> shards

The same spec gives the same bytes: archives are pinned, choices are keyed, compression has one thread.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from dataeff import keyed
from dataeff.corpus.card import Part, check_slugs, data_card, listed_files, slug
from dataeff.corpus.clean import Rejected, clean_document
from dataeff.corpus.documents import check_manifest, find_manifests, raw_documents
from dataeff.corpus.fetch import Manifest
from dataeff.corpus.pool import Entry, Pool, cut_to_size, hold_out, shuffled
from dataeff.corpus.shard import write_documents
from dataeff.errors import DataeffError
from dataeff.files import atomic_directory, write_json, write_manifest
from dataeff.study.specs import CorpusSpec

POOL_FACTOR = 8
"""A source is read from its beginning until it gave this many times `max_bytes_per_source`; the choice is
made among that. So it is spread over all of a small source, and a huge one is not read to its end."""
PROGRESS_SECONDS = 5.0


def build(spec: CorpusSpec, manifests: Sequence[Path], out: Path) -> None:
    """Writes `out`/shards, `out`/heldout and, last, the data card `out`/corpus.json."""
    corpus, fetched = spec.corpus, find_manifests(spec, manifests)
    _check_pooled(spec, fetched)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "corpus.json").unlink(missing_ok=True)
    tallies: dict[str, Counter[str]] = {}
    chosen: list[Entry] = []
    with tempfile.TemporaryFile(dir=out) as spool:
        pool = Pool(spool)
        for manifest in fetched.values():
            name = manifest.taken
            tallies[name] = Counter()
            entries = read_source(spec, manifest, pool, tallies[name])
            kept = cut_to_size(entries, corpus.max_bytes_per_source, keyed.key(corpus.seed, f"corpus:take:{name}"))
            if not kept:
                raise DataeffError(
                    f"sources.{name}: no document of it is left {dict(tallies[name])}; lower min_characters, "
                    f"raise max_bytes_per_source or take the source out of the corpus"
                )
            tallies[name]["over_limit"] = len(entries) - len(kept)
            chosen += kept
        training, heldout = _split(spec, chosen)
        _write_shards(pool, training, corpus.shards, out / "shards")
        write_heldout(pool, heldout, out / "heldout")
    held = part_of(entry for entries in heldout.values() for entry in entries)
    card = data_card(spec, fetched, tallies, part_of(training), held, corpus.shards)
    card["files"] = {
        f"{part}/{file}": fact for part in ("shards", "heldout") for file, fact in listed_files(out / part).items()
    }
    write_json(out / "corpus.json", card)


def _check_pooled(spec: CorpusSpec, fetched: dict[str, Manifest]) -> None:
    if spec.corpus.layout != "pooled":
        raise DataeffError(
            f"corpora.{spec.name}.layout: {spec.corpus.layout}: made shard by shard, by `dataeff corpus shard`"
        )
    for name, manifest in fetched.items():
        check_manifest(spec, manifest)
        if manifest.taken != name and manifest.taken in fetched:
            raise DataeffError(
                f"sources.{name}: cannot be had, and its substitute '{manifest.taken}' is in corpus {spec.name} "
                f"already; take '{name}' out of corpora.{spec.name}.sources"
            )


# --- read ---------------------------------------------------------------------------------------------------


def read_source(spec: CorpusSpec, manifest: Manifest, pool: Pool, tally: Counter[str]) -> list[Entry]:
    """The clean, new documents of a source; counts in `tally` what was read and what was dropped why."""
    name = manifest.taken
    source, limit = spec.sources[name], spec.corpus.max_bytes_per_source
    pool_bytes = None if limit is None else POOL_FACTOR * limit
    entries: list[Entry] = []
    start = shown = time.monotonic()
    first = pool.end
    for raw in raw_documents(source, manifest):
        tally["read"] += 1
        text = clean_document(raw.text, spec.corpus.min_characters)
        if isinstance(text, Rejected):
            tally[text.reason] += 1
            continue
        entry = pool.add(text, name, raw.domain or source.domain, raw.block)
        if entry is None:
            tally["duplicate"] += 1
            continue
        entries.append(entry)
        now = time.monotonic()
        if now - shown > PROGRESS_SECONDS:
            shown = now
            print(
                _progress(name, tally["read"], pool.end - first, pool_bytes, now - start),
                flush=True,
            )
        if pool_bytes is not None and pool.end - first >= pool_bytes:
            tally["stopped_early"] = 1
            break
    summary = _progress(name, tally["read"], pool.end - first, None, time.monotonic() - start)
    print(f"{summary}; done", flush=True)
    return entries


def _progress(source: str, documents: int, read_bytes: int, pool_bytes: int | None, seconds: float) -> str:
    line = f"corpus: {source}: {documents:,} documents, {read_bytes / 1e6:.1f} MB in {seconds:.1f} s"
    if pool_bytes and read_bytes:
        line += f", at most {seconds * (pool_bytes / read_bytes - 1):.0f} s left"
    return line


# --- split -------------------------------------------------------------------------------------------------


def _split(spec: CorpusSpec, chosen: Sequence[Entry]) -> tuple[list[Entry], dict[str, list[Entry]]]:
    """All training documents, shuffled over the domains; and by domain those held out, shuffled too."""
    corpus = spec.corpus
    domains: dict[str, list[Entry]] = {}
    for entry in chosen:
        domains.setdefault(entry.domain, []).append(entry)
    training: list[Entry] = []
    heldout: dict[str, list[Entry]] = {}
    for domain, entries in domains.items() if corpus.heldout else ():
        budget = min(int(corpus.heldout * sum(entry.bytes for entry in entries)), corpus.heldout_max_bytes)
        kept, out = hold_out(entries, budget, keyed.key(corpus.seed, f"corpus:heldout:{domain}"))
        if not out:
            raise DataeffError(
                f"corpus {spec.name}: domain '{domain}' has no block of at most {budget} bytes to hold out "
                f"(heldout {corpus.heldout}, heldout_max_bytes {corpus.heldout_max_bytes}, {len(entries)} "
                f"documents); add text, raise heldout, or set heldout: 0"
            )
        training += kept
        # A stage may read only the beginning of a held-out file; shuffled, that is a sample of all of it.
        heldout[domain] = shuffled(out, keyed.key(corpus.seed, f"corpus:heldout-order:{domain}"))
    training = training if corpus.heldout else list(chosen)
    if len(training) < corpus.shards:
        raise DataeffError(
            f"corpus {spec.name}: {len(training)} training documents for {corpus.shards} shards; lower shards"
        )
    return shuffled(training, keyed.key(corpus.seed, "corpus:shuffle")), heldout


# --- write --------------------------------------------------------------------------------------------------


def _write_shards(pool: Pool, training: Sequence[Entry], shards: int, out: Path) -> None:
    with atomic_directory(out) as folder:
        for index in range(shards):
            write_documents(folder / f"{index:02d}.jsonl.zst", pool.documents(training[index::shards]))
        write_manifest(folder)


def write_heldout(pool: Pool, heldout: dict[str, list[Entry]], out: Path) -> None:
    """A file per domain, and the folder's manifest."""
    check_slugs(heldout)
    with atomic_directory(out) as folder:
        for domain, entries in heldout.items():
            write_documents(folder / f"{slug(domain)}.jsonl.zst", pool.documents(entries))
        write_manifest(folder)


def part_of(entries: Iterable[Entry]) -> Part:
    part = Part()
    for entry in entries:
        part.add(entry.source, entry.domain, 1, entry.bytes)
    return part
