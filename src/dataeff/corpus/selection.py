"""What a corpus takes, from its configuration alone: sources, substitutes, shards. Known before anything is fetched.

The workflow needs these names to plan its jobs; the stages need them to find and to name things. Pure, but for the
listing of a local folder, whose files are the shards of a sharded corpus.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from dataeff.corpus.archive import matches
from dataeff.errors import DataeffError, unknown_name
from dataeff.study.fetches import Fetch, HttpFetch, HubFetch, PathFetch
from dataeff.study.types import Corpus, Source

Sources = Mapping[str, Source]

_SHARD_SUFFIX = re.compile(r"(\.jsonl?|\.txt)?(\.zst|\.gz)?$")
_SHARD_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


def left_out(corpus: Corpus, sources: Sources) -> list[str]:
    """The sources that `strict_licence` leaves out."""
    return [name for name in corpus.sources if corpus.strict_licence and not sources[name].redistributable]


def used_sources(name: str, corpus: Corpus, sources: Sources) -> list[str]:
    """The sources whose text trains: those named, less those left out; at least one."""
    out = left_out(corpus, sources)
    used = [source for source in corpus.sources if source not in out]
    if not used:
        raise DataeffError(
            f"corpora.{name}.strict_licence: no source is left; {', '.join(out)}: redistributable is false. Add a "
            f"source with a clear licence, or set strict_licence: false"
        )
    held = corpus.heldout_from
    if held is not None and corpus.strict_licence and not sources[held].redistributable:
        raise DataeffError(
            f"corpora.{name}.heldout_from: {held} has redistributable: false, which strict_licence leaves out; hold "
            f"out another source, or set strict_licence: false"
        )
    return used


def read_sources(name: str, corpus: Corpus, sources: Sources) -> list[str]:
    """The sources that are read: those used, and the one held out."""
    return [*used_sources(name, corpus, sources), *([corpus.heldout_from] if corpus.heldout_from else [])]


def substitutes_of(corpus: Corpus, sources: Sources) -> list[str]:
    """The sources that may be taken instead of others of the corpus, each once; none unless it accepts substitutes."""
    if not corpus.accept_substitutes:
        return []
    found: list[str] = []
    for first in [*corpus.sources, *([corpus.heldout_from] if corpus.heldout_from else [])]:
        chain = [first]
        while (name := _find(sources, chain[-1], "corpora").substitute) is not None:
            _find(sources, name, f"sources.{chain[-1]}.substitute")
            if name in chain:
                raise DataeffError(
                    f"sources.{chain[-1]}.substitute: {' -> '.join([*chain, name])} goes round in a circle; a "
                    f"substitute needs text of its own"
                )
            chain.append(name)
        found += chain[1:]
    return [name for name in dict.fromkeys(found) if sources[name].redistributable or not corpus.strict_licence]


def needed_sources(name: str, corpus: Corpus, sources: Sources) -> list[str]:
    """Every source that specs of the corpus have to hold: named, held out, and those that may stand in."""
    named = [*corpus.sources, *([corpus.heldout_from] if corpus.heldout_from else [])]
    for source in named:
        key = "sources" if source in corpus.sources else "heldout_from"
        _find(sources, source, f"corpora.{name}.{key}")
    return list(dict.fromkeys([*named, *substitutes_of(corpus, sources)]))


def _find(sources: Sources, name: str, where: str) -> Source:
    if name not in sources:
        raise unknown_name("source", name, sources, where)
    return sources[name]


# --- shards -------------------------------------------------------------------------------------------------


def shard_names(corpus: Corpus, sources: Sources) -> list[str]:
    """`00`, `01`, ...: by number where a corpus is pooled, by the files of its source where it is sharded."""
    if corpus.layout == "pooled":
        return [f"{number:02d}" for number in range(corpus.shards)]
    name = corpus.sources[0]
    source = _find(sources, name, "corpora")
    return list(shard_files(name, source.fetch, source.members))


def shard_files(name: str, fetch: Fetch, members: Sequence[str]) -> dict[str, str]:
    """The file of each shard of the source `name`, in order."""
    files = _file_names(name, fetch, members)
    shards = [shard_of(file) for file in files]
    for shard, file in zip(shards, files, strict=True):
        if shards.count(shard) > 1:
            raise DataeffError(f"sources.{name}: more than one file for shard '{shard}'; give each a name of its own")
        if not _SHARD_NAME.fullmatch(shard):
            raise DataeffError(f"sources.{name}: '{file}' names no shard; rename it with letters, digits and . _ -")
    return dict(zip(shards, files, strict=True))


def shard_of(file_name: str) -> str:
    """`train/00.jsonl.zst` -> `00`"""
    return _SHARD_SUFFIX.sub("", file_name.rpartition("/")[2])


def _file_names(name: str, fetch: Fetch, members: Sequence[str]) -> list[str]:
    if isinstance(fetch, HttpFetch | HubFetch):
        return [file.name for file in fetch.files]
    if not isinstance(fetch, PathFetch):
        raise DataeffError(
            f"sources.{name}.fetch.kind: {fetch.kind}: a sharded corpus needs a source of several files: kind http, "
            f"hub or path (a folder)"
        )
    path = Path(fetch.path)
    return [path.name] if path.is_file() else local_names(name, path, members)


def local_names(name: str, folder: Path, members: Sequence[str]) -> list[str]:
    """The files below a local folder that `members` select, in order; at least one."""
    names = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    names = [file for file in names if matches(file, members)]
    if not names:
        raise DataeffError(f"{folder}: no file below it matches sources.{name}.members: {list(members)}")
    return names
