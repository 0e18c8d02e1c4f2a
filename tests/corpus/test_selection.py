"""What a corpus takes is told from its configuration alone: licences, substitutes, shards, and each mistake in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from dataeff.corpus.selection import (
    left_out,
    needed_sources,
    read_sources,
    shard_files,
    shard_names,
    substitutes_of,
    used_sources,
)
from dataeff.errors import DataeffError
from dataeff.study.types import Corpus, Source


def source(*names: str, **fields: Any) -> Source:
    how = {"kind": "http", "mirrors": ["http://x"], "files": [{"name": name} for name in names or ("00.jsonl.zst",)]}
    base = {"domain": "D", "about": "a", "licence": "l", "stands_in_for": "s", "reader": "pile", "fetch": how}
    return Source.model_validate({**base, **fields})


def corpus(*sources: str, **fields: Any) -> Corpus:
    return Corpus.model_validate({"about": "a", "sources": list(sources), **fields})


SOURCES = {
    "free": source(),
    "murky": source(redistributable=False, substitute="free"),
    "gone": source(substitute="murky"),
    "round": source(substitute="about"),
    "about": source(substitute="round"),
}


def test_a_strict_licence_leaves_out_what_is_not_clear() -> None:
    assert used_sources("c", corpus("free", "murky"), SOURCES) == ["free", "murky"]
    strict = corpus("free", "murky", strict_licence=True)
    assert (used_sources("c", strict, SOURCES), left_out(strict, SOURCES)) == (["free"], ["murky"])
    with pytest.raises(DataeffError, match=r"corpora\.c\.strict_licence: no source is left; murky: redistributable"):
        used_sources("c", corpus("murky", strict_licence=True), SOURCES)
    held = corpus("free", layout="sharded", heldout=0, heldout_from="murky", strict_licence=True)
    with pytest.raises(DataeffError, match=r"corpora\.c\.heldout_from: murky has redistributable: false"):
        used_sources("c", held, SOURCES)


def test_substitutes_are_followed_only_where_accepted() -> None:
    assert substitutes_of(corpus("gone"), SOURCES) == []
    assert needed_sources("c", corpus("gone"), SOURCES) == ["gone"]
    assert substitutes_of(corpus("gone", accept_substitutes=True), SOURCES) == ["murky", "free"]
    assert needed_sources("c", corpus("gone", accept_substitutes=True), SOURCES) == ["gone", "murky", "free"]
    strict = corpus("gone", accept_substitutes=True, strict_licence=True)
    assert substitutes_of(strict, SOURCES) == ["free"]


def test_mistakes_in_names_and_circles_are_told() -> None:
    with pytest.raises(DataeffError, match="round -> about -> round goes round in a circle"):
        substitutes_of(corpus("round", accept_substitutes=True), SOURCES)
    misspelt = {**SOURCES, "x": source(substitute="fre")}
    with pytest.raises(DataeffError, match=r"sources\.x\.substitute: unknown source 'fre'; did you mean 'free'"):
        substitutes_of(corpus("x", accept_substitutes=True), misspelt)
    with pytest.raises(DataeffError, match=r"corpora\.c\.sources: unknown source 'nil'"):
        needed_sources("c", corpus("free", "nil"), SOURCES)
    with pytest.raises(DataeffError, match=r"corpora\.c\.heldout_from: unknown source 'nil'"):
        needed_sources("c", corpus("free", layout="sharded", heldout=0, heldout_from="nil"), SOURCES)


def test_the_source_held_out_is_read_too() -> None:
    sharded = corpus("free", layout="sharded", heldout=0, heldout_from="murky")
    assert read_sources("c", sharded, SOURCES) == ["free", "murky"]


def test_shards_are_numbered_or_named_by_their_files(tmp_path: Path) -> None:
    assert shard_names(corpus("free", shards=3), SOURCES) == ["00", "01", "02"]
    sharded = corpus("s", layout="sharded", heldout=0)
    assert shard_names(sharded, {"s": source("train/00.jsonl.zst", "train/01.jsonl", "b.txt.gz")}) == ["00", "01", "b"]
    (tmp_path / "sub").mkdir()
    for name in ("02.jsonl.zst", "sub/x.jsonl", "notes.md"):
        (tmp_path / name).touch()
    local = {"s": source(fetch={"kind": "path", "path": str(tmp_path)}, members=["*.jsonl*"])}
    assert shard_names(sharded, local) == ["02", "x"]
    one = {"s": source(fetch={"kind": "path", "path": str(tmp_path / "02.jsonl.zst")})}
    assert shard_names(sharded, one) == ["02"]


def test_files_that_name_no_shards_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataeffError, match=r"sources\.s: more than one file for shard '00'"):
        shard_files("s", source("a/00.jsonl", "b/00.jsonl").fetch, [])
    (tmp_path / "two words.jsonl").touch()
    with pytest.raises(DataeffError, match=r"'two words\.jsonl' names no shard; rename it"):
        shard_files("s", source(fetch={"kind": "path", "path": str(tmp_path)}).fetch, [])
    pinned = {"kind": "debian", "path": "pool/x.deb", "sha256": "0" * 64, "bytes": 1}
    with pytest.raises(
        DataeffError, match=r"sources\.s\.fetch\.kind: debian: a sharded corpus needs a source of several"
    ):
        shard_files("s", source(fetch=pinned).fetch, [])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layout": "sharded"}, "set heldout: 0"),
        ({"layout": "sharded", "heldout": 0, "shards": 2}, "leave out shards"),
        ({"layout": "sharded", "heldout": 0, "sources": ["a", "b"]}, "a sharded corpus has one source"),
        ({"layout": "sharded", "heldout": 0, "heldout_from": "a"}, "needs a source of its own"),
        ({"heldout_from": "b"}, "for layout: sharded"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Corpus.model_validate({"about": "a", "sources": ["a"], **fields})


@pytest.mark.parametrize("name", ["../x", "/x", "a//b", "a/../b", "x y", ""])
def test_a_remote_name_cannot_leave_the_cache(name: str) -> None:
    with pytest.raises(ValidationError):
        source(name)
