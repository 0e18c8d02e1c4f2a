"""A sharded corpus: each file of its source becomes one shard, alone; then the held-out text and the data card.

    read -> clean -> drop what is empty, short or no UTF-8 -> shards/{shard}.jsonl.zst and shards/{shard}.json

For text that is larger than a memory, a disk or a job's time (the Pile has 30 files of 15 GB). A shard is streamed:
memory holds a document at a time. The facts beside a shard are written after it and say what it was made of.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from dataeff import keyed
from dataeff.corpus.build import part_of, read_source, write_heldout
from dataeff.corpus.card import DROPPED, Part, check_slugs, data_card, listed_files
from dataeff.corpus.clean import Rejected, clean_document
from dataeff.corpus.documents import HashedStream, check_manifest, raw_documents
from dataeff.corpus.fetch import FetchedFile, Manifest, Substitution, read_manifest
from dataeff.corpus.pool import Entry, Pool, hold_out, shuffled
from dataeff.corpus.selection import shard_names, shard_of, used_sources
from dataeff.corpus.shard import Document, write_documents
from dataeff.errors import DataeffError
from dataeff.files import read_json, sha256_file, write_json
from dataeff.progress import Progress
from dataeff.study.base import Frozen, Sha256
from dataeff.study.fetches import PathFetch
from dataeff.study.load import validate
from dataeff.study.specs import CorpusSpec

COMPRESSION_LEVEL = 3
"""The fastest that still packs text well: at the pooled corpus's level a shard of the Pile would take an hour more."""


class DomainSize(Frozen):
    documents: int
    bytes: int


class ShardFacts(Frozen):
    """What a shard holds, of which file it was made, and the digest of the spec that it was made by."""

    shard: str
    digest: Sha256
    source: str
    licence: str
    substitution: Substitution | None
    file: FetchedFile
    bytes: int
    sha256: Sha256
    documents: int
    read: int
    dropped: dict[str, int]
    domains: dict[str, DomainSize]


def build_shard(spec: CorpusSpec, manifest: Path, shard: str, out: Path) -> None:
    """Writes `out`/shards/{shard}.jsonl.zst and, after it, its facts {shard}.json, from that shard's manifest."""
    _check_sharded(spec)
    fetched = read_manifest(manifest)
    check_manifest(spec, fetched, hashed=False)
    if [shard_of(file.name) for file in fetched.files] != [shard]:
        names = [file.name for file in fetched.files]
        raise DataeffError(f"{manifest}: of files {names}; shard '{shard}' is made of its own file (fetch_shard)")
    target = Path(out) / "shards" / f"{shard}.jsonl.zst"
    facts_path = target.with_name(f"{shard}.json")
    facts_path.unlink(missing_ok=True)
    tally: Counter[str] = Counter()
    sizes: dict[str, Counter[str]] = {}
    try:
        with closing(HashedStream(Path(fetched.files[0].path))) as stream:
            documents = _clean_documents(spec, fetched, shard, stream, tally, sizes)
            count = write_documents(target, documents, COMPRESSION_LEVEL)
    except OSError as error:
        raise DataeffError(
            f"{target}: {error}; nothing was left of it. Free room or write elsewhere, and run again: only the "
            f"shards that are missing are made"
        ) from None
    facts = ShardFacts(
        shard=shard,
        digest=spec.digest,
        source=fetched.taken,
        licence=fetched.licence,
        substitution=fetched.substitution,
        file=fetched.files[0],
        bytes=target.stat().st_size,
        sha256=sha256_file(target),
        documents=count,
        read=tally["read"],
        dropped={reason: tally[reason] for reason in DROPPED},
        domains={domain: DomainSize.model_validate(size) for domain, size in sorted(sizes.items())},
    )
    write_json(facts_path, facts.model_dump(mode="json"))


def _check_sharded(spec: CorpusSpec) -> None:
    if spec.corpus.layout != "sharded":
        raise DataeffError(
            f"corpora.{spec.name}.layout: {spec.corpus.layout}: it is made as a whole, by `dataeff corpus build`"
        )
    used_sources(spec.name, spec.corpus, spec.sources)


def _clean_documents(
    spec: CorpusSpec,
    manifest: Manifest,
    shard: str,
    stream: HashedStream,
    tally: Counter[str],
    sizes: dict[str, Counter[str]],
) -> Iterator[Document]:
    """The clean documents of the shard's file. The file's sha256 is checked in the end, before the shard counts."""
    source, file = spec.sources[manifest.taken], manifest.files[0]
    progress = Progress(f"corpus: shard {shard}", file.bytes, "bytes")
    for raw in raw_documents(source, manifest, stream.opener):
        tally["read"] += 1
        progress.show(stream.read_bytes)
        text = clean_document(raw.text, spec.corpus.min_characters)
        if isinstance(text, Rejected):
            tally[text.reason] += 1
            continue
        domain = raw.domain or source.domain
        sizes.setdefault(domain, Counter()).update(documents=1, bytes=len(text.encode("utf-8")))
        yield Document(text, domain)
    if stream.sha256_of_all() != file.sha256:
        raise DataeffError(f"{file.path}: changed since it was fetched; run the fetch of '{manifest.source}' again")
    if not sizes:
        raise DataeffError(
            f"{file.path}: no document of it is left {dict(tally)}; lower corpora.{spec.name}.min_characters"
        )


# --- held-out text and card ---------------------------------------------------------------------------------


def build_card(spec: CorpusSpec, facts: Sequence[Path], manifests: Sequence[Path], out: Path) -> None:
    """Writes `out`/heldout and, last, `out`/corpus.json, from all shards' facts and the held-out source's manifest."""
    out = Path(out)
    shards = _read_facts(spec, facts, out)
    first = shards[0]
    (out / "corpus.json").unlink(missing_ok=True)
    tallies = {first.source: Counter({"read": 0})}
    training = Part()
    for shard in shards:
        tallies[first.source].update({"read": shard.read, **shard.dropped})
        for domain, size in shard.domains.items():
            training.add(first.source, domain, size.documents, size.bytes)
    check_slugs(training.domains)
    name = spec.corpus.sources[0]
    fetched = {
        name: Manifest(
            source=name,
            licence=first.licence,
            url=None,
            folder=False,
            files=[shard.file for shard in shards],
            substitution=first.substitution,
        )
    }
    heldout = _hold_out(spec, manifests, fetched, tallies, out)
    card = data_card(spec, fetched, tallies, training, heldout, len(shards))
    card["files"] = {
        **{f"shards/{shard.shard}.jsonl.zst": {"bytes": shard.bytes, "sha256": shard.sha256} for shard in shards},
        **{f"heldout/{file}": fact for file, fact in listed_files(out / "heldout").items()},
    }
    write_json(out / "corpus.json", card)


def _read_facts(spec: CorpusSpec, paths: Sequence[Path], out: Path) -> list[ShardFacts]:
    """The facts of every shard, in the order given; all made by this spec, from one source, and still there."""
    _check_sharded(spec)
    shards = []
    for path in paths:
        facts = validate(ShardFacts, read_json(path), str(path))
        target = out / "shards" / f"{facts.shard}.jsonl.zst"
        if facts.digest != spec.digest:
            raise DataeffError(
                f"{path}: made before the corpus's configuration changed; build shard '{facts.shard}' again"
            )
        if not target.is_file() or target.stat().st_size != facts.bytes:
            raise DataeffError(
                f"{target}: missing, or not as {path.name} says; remove {path} and build shard '{facts.shard}' again"
            )
        shards.append(facts)
    _check_complete(spec, [facts.shard for facts in shards])
    sources = {facts.source: facts.shard for facts in shards}
    if len(sources) > 1:
        told = ", ".join(f"shard {shard} is of '{source}'" for source, shard in sources.items())
        raise DataeffError(
            f"corpus {spec.name}: shards of different sources ({told}): a source could be had for some of its files "
            f"only, and mixed with its substitute it may repeat text. Name one of them in corpora.{spec.name}.sources"
        )
    return shards


def _check_complete(spec: CorpusSpec, given: list[str]) -> None:
    """Local files may be gone once their shards are made, to save room; what a mirror has is known for good."""
    local = isinstance(spec.sources[spec.corpus.sources[0]].fetch, PathFetch)
    wanted = [] if local else shard_names(spec.corpus, spec.sources)
    missing = [name for name in wanted if name not in given]
    if missing or not given:
        raise DataeffError(
            f"corpus {spec.name}: no facts of shards {missing or ''} are among those given; build them first"
        )


def _hold_out(
    spec: CorpusSpec,
    paths: Sequence[Path],
    fetched: dict[str, Manifest],
    tallies: dict[str, Counter[str]],
    out: Path,
) -> Part:
    """Writes `out`/heldout: of each domain of the held-out source, documents in keyed order up to the limit."""
    name = spec.corpus.heldout_from
    chosen: dict[str, list[Entry]] = {}
    with tempfile.TemporaryFile(dir=out) as spool:
        pool = Pool(spool)
        if name is not None:
            chosen = _chosen(spec, paths, fetched, tallies, pool)
        write_heldout(pool, chosen, out / "heldout")
    return part_of(entry for entries in chosen.values() for entry in entries)


def _chosen(
    spec: CorpusSpec,
    paths: Sequence[Path],
    fetched: dict[str, Manifest],
    tallies: dict[str, Counter[str]],
    pool: Pool,
) -> dict[str, list[Entry]]:
    """By domain, what is held out; adds the held-out source to `fetched` and `tallies`."""
    name = str(spec.corpus.heldout_from)
    found = {manifest.source: manifest for manifest in map(read_manifest, paths)}
    if name not in found:
        raise DataeffError(f"corpus {spec.name}: the manifest of heldout_from '{name}' is not among those given")
    manifest = fetched[name] = found[name]
    check_manifest(spec, manifest)
    tally = tallies[manifest.taken] = Counter()
    entries = read_source(spec, manifest, pool, tally)
    domains: dict[str, list[Entry]] = {}
    for entry in entries:
        domains.setdefault(entry.domain, []).append(entry)
    chosen = {}
    limit, seed = spec.corpus.heldout_max_bytes, spec.corpus.seed
    for domain, members in domains.items():
        _, kept = hold_out(members, limit, keyed.key(seed, f"corpus:heldout:{domain}"))
        if not kept:
            raise DataeffError(
                f"corpus {spec.name}: no document of domain '{domain}' in source '{name}' has at most {limit} bytes; "
                f"raise heldout_max_bytes"
            )
        chosen[domain] = shuffled(kept, keyed.key(seed, f"corpus:heldout-order:{domain}"))
    tally["over_limit"] = len(entries) - sum(map(len, chosen.values()))
    return chosen
