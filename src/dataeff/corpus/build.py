"""Training shards, held-out files and a data card, from the fetched files of a corpus's sources.

    read -> clean -> drop duplicates -> cut sources to size -> hold out of each domain -> shuffle -> shards

The same spec gives the same bytes: archives are pinned, choices are keyed, compression has one thread.
"""

from __future__ import annotations

import re
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

from dataeff import keyed
from dataeff.corpus.archive import Member, is_archive, members
from dataeff.corpus.clean import Rejected, clean_document
from dataeff.corpus.fetch import FetchedFile, Manifest, read_manifest
from dataeff.corpus.pool import Entry, Pool, cut_to_size, hold_out, shuffled
from dataeff.corpus.readers import RawDocument, find_reader, unreadable
from dataeff.corpus.shard import write_documents
from dataeff.errors import DataeffError
from dataeff.files import MANIFEST, atomic_directory, read_json, sha256_file, write_json, write_manifest
from dataeff.study.specs import CorpusSpec
from dataeff.study.types import Source

POOL_FACTOR = 8
"""A source is read from its beginning until it gave this many times `max_bytes_per_source`; the choice is
made among that. So it is spread over all of a small source, and a huge one is not read to its end."""
PROGRESS_SECONDS = 5.0
DROPPED = ("empty", "short", "not_utf8", "duplicate", "over_limit")


def build(spec: CorpusSpec, manifests: Sequence[Path], out: Path) -> None:
    """Writes `out`/shards, `out`/heldout and, last, the data card `out`/corpus.json."""
    corpus, fetched = spec.corpus, _find_manifests(spec, manifests)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "corpus.json").unlink(missing_ok=True)
    tallies: dict[str, Counter[str]] = {}
    chosen: list[Entry] = []
    with tempfile.TemporaryFile(dir=out) as spool:
        pool = Pool(spool)
        for name in corpus.sources:
            tallies[name] = Counter()
            entries = _read_source(spec, fetched[name], pool, tallies[name])
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
        _write_heldout(pool, heldout, out / "heldout")
    card = _card(spec, fetched, tallies, training, heldout)
    card["files"] = {
        f"{part}/{file}": fact for part in ("shards", "heldout") for file, fact in _files(out / part).items()
    }
    write_json(out / "corpus.json", card)


# --- read ---------------------------------------------------------------------------------------------------


def _find_manifests(spec: CorpusSpec, paths: Sequence[Path]) -> dict[str, Manifest]:
    """The manifest of each source of the corpus; each of its files must still be what was fetched."""
    found = {manifest.source: manifest for manifest in map(read_manifest, paths)}
    for name in spec.corpus.sources:
        if name not in found:
            raise DataeffError(
                f"corpus {spec.name}: no manifest of source '{name}' is among those given "
                f"({', '.join(map(str, paths))}); fetch the source and add its manifest"
            )
        how = spec.sources[name].fetch
        for file in found[name].files:
            path = Path(file.path)
            if how.sha256 not in (None, file.sha256):
                raise DataeffError(f"{path}: fetched before sources.{name}.fetch.sha256 changed; run its fetch again")
            if not path.is_file() or path.stat().st_size != file.bytes or sha256_file(path) != file.sha256:
                raise DataeffError(f"{path}: missing, or changed since it was fetched; run the fetch of '{name}' again")
    return found


def _read_source(spec: CorpusSpec, manifest: Manifest, pool: Pool, tally: Counter[str]) -> list[Entry]:
    """The clean, new documents of a source; counts in `tally` what was read and what was dropped why."""
    source, limit = spec.sources[manifest.source], spec.corpus.max_bytes_per_source
    pool_bytes = None if limit is None else POOL_FACTOR * limit
    entries: list[Entry] = []
    start = shown = time.monotonic()
    first = pool.end
    for raw in _raw_documents(source, manifest):
        tally["read"] += 1
        text = clean_document(raw.text, spec.corpus.min_characters)
        if isinstance(text, Rejected):
            tally[text.reason] += 1
            continue
        entry = pool.add(text, manifest.source, raw.domain or source.domain, raw.block)
        if entry is None:
            tally["duplicate"] += 1
            continue
        entries.append(entry)
        now = time.monotonic()
        if now - shown > PROGRESS_SECONDS:
            shown = now
            print(
                _progress(manifest.source, tally["read"], pool.end - first, pool_bytes, now - start),
                flush=True,
            )
        if pool_bytes is not None and pool.end - first >= pool_bytes:
            tally["stopped_early"] = 1
            break
    summary = _progress(manifest.source, tally["read"], pool.end - first, None, time.monotonic() - start)
    print(f"{summary}; done", flush=True)
    return entries


def _progress(source: str, documents: int, read_bytes: int, pool_bytes: int | None, seconds: float) -> str:
    line = f"corpus: {source}: {documents:,} documents, {read_bytes / 1e6:.1f} MB in {seconds:.1f} s"
    if pool_bytes and read_bytes:
        line += f", at most {seconds * (pool_bytes / read_bytes - 1):.0f} s left"
    return line


def _raw_documents(source: Source, manifest: Manifest) -> Iterator[RawDocument]:
    reader = find_reader(source.reader, f"sources.{manifest.source}.reader")
    current = manifest.files[0].path

    def opened() -> Iterator[Member]:
        nonlocal current
        for file in manifest.files:
            current = file.path
            yield from _members_of(file, source, manifest.folder)

    try:
        yield from reader(opened())
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise unreadable(current, source.reader, error) from None
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, ParseError) as error:
        raise unreadable(current, source.reader, error) from None


def _members_of(file: FetchedFile, source: Source, in_folder: bool) -> Iterator[Member]:
    """The files inside an archive that stands alone; a folder's files as they are (fetch chose them)."""
    if is_archive(file.name) and not in_folder:
        yield from members(Path(file.path), source.members)
    else:
        with Path(file.path).open("rb") as stream:
            yield Member(file.path, stream)


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


def slug(domain: str) -> str:
    """`PubMed Abstracts` -> `pubmed_abstracts`: the name of the domain's held-out file."""
    return re.sub(r"[^a-z0-9]+", "_", domain.lower()).strip("_")


def _write_shards(pool: Pool, training: Sequence[Entry], shards: int, out: Path) -> None:
    with atomic_directory(out) as folder:
        for index in range(shards):
            write_documents(folder / f"{index:02d}.jsonl.zst", pool.documents(training[index::shards]))
        write_manifest(folder)


def _write_heldout(pool: Pool, heldout: dict[str, list[Entry]], out: Path) -> None:
    slugs = Counter(slug(domain) for domain in heldout)
    for domain in heldout:
        if slugs[slug(domain)] > 1 or not slug(domain):
            raise DataeffError(
                f"domain '{domain}': its file name '{slug(domain)}' is empty or another domain's; rename it"
            )
    with atomic_directory(out) as folder:
        for domain, entries in heldout.items():
            write_documents(folder / f"{slug(domain)}.jsonl.zst", pool.documents(entries))
        write_manifest(folder)


def _files(folder: Path) -> dict[str, Any]:
    files: dict[str, Any] = read_json(folder / MANIFEST)["files"]
    return files


def _card(
    spec: CorpusSpec,
    fetched: dict[str, Manifest],
    tallies: dict[str, Counter[str]],
    training: Sequence[Entry],
    heldout: dict[str, list[Entry]],
) -> dict[str, Any]:
    """The data card: what the corpus holds, whence, and what was left out. No path or time: it repeats."""
    out = [entry for entries in heldout.values() for entry in entries]
    sources = {}
    for name in spec.corpus.sources:
        source, tally = spec.sources[name], tallies[name]
        sources[name] = {
            **source.model_dump(mode="json", include={"domain", "about", "licence", "stands_in_for"}),
            "files": [{"name": file.name, "bytes": file.bytes, "sha256": file.sha256} for file in fetched[name].files],
            "documents_read": tally["read"],
            "stopped_early": bool(tally["stopped_early"]),
            "dropped": {reason: tally[reason] for reason in DROPPED},
            "training": _size(entry for entry in training if entry.source == name),
            "heldout": _size(entry for entry in out if entry.source == name),
        }
    domains = {
        domain: {
            "slug": slug(domain),
            "training": _size(entry for entry in training if entry.domain == domain),
            "heldout": _size(heldout.get(domain, ())),
        }
        for domain in sorted({entry.domain for entry in (*training, *out)})
    }
    return {
        "corpus": spec.name,
        "digest": spec.digest,
        **spec.corpus.model_dump(mode="json", include={"about", "seed", "shards"}),
        "training": _size(training),
        "heldout": _size(out),
        "domains": domains,
        "sources": sources,
    }


def _size(entries: Iterable[Entry]) -> dict[str, int]:
    sizes = [entry.bytes for entry in entries]
    return {"documents": len(sizes), "bytes": sum(sizes)}
