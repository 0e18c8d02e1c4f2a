"""A sharded corpus built file by file: shards, facts, card; and every way in which one of its files can fail."""

from __future__ import annotations

import json
import os
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from dataeff.corpus.fetch import fetch, fetch_shard
from dataeff.corpus.shard import Document, read_documents, write_documents
from dataeff.corpus.sharded import build_card, build_shard
from dataeff.errors import DataeffError
from dataeff.files import check_manifest, read_json
from dataeff.study.specs import CorpusSpec, FetchSpec
from dataeff.study.types import Corpus, Source

SHARDS = ["00", "01", "02"]


def text(number: int) -> str:
    return f"document {number} " + "word " * (20 + number % 7)


def source(path: Path, **fields: Any) -> Source:
    how = {"kind": "path", "path": str(path)}
    base = {"domain": "D", "about": "a", "licence": "CC0", "stands_in_for": "s", "reader": "pile", "fetch": how}
    return Source.model_validate({**base, **fields})


class Setup:
    """Three shards and a held-out file in the Pile's form, two domains."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, folder / "out"
        (folder / "train").mkdir()
        for index, shard in enumerate(SHARDS):
            documents = [Document(text(n), f"Part {n % 2}") for n in range(index * 100, index * 100 + 50)]
            documents += [Document(text(0), "Part 0"), Document("tiny", "Part 0"), Document(" \n", "Part 1")]
            write_documents(self.raw(shard), documents)
        write_documents(folder / "val.jsonl.zst", [Document(text(n), f"Part {n % 2}") for n in range(900, 940)])
        self.sources = {"train": source(folder / "train"), "val": source(folder / "val.jsonl.zst")}

    def raw(self, shard: str) -> Path:
        return self.folder / f"train/{shard}.jsonl.zst"

    def facts(self, shard: str) -> Path:
        return self.out / f"shards/{shard}.json"

    def spec(self, **changes: Any) -> CorpusSpec:
        fields = {"about": "a", "sources": ["train"], "layout": "sharded", "heldout": 0, "heldout_from": "val"}
        corpus = Corpus.model_validate({**fields, "min_characters": 10, "heldout_max_bytes": 1_000, **changes})
        return CorpusSpec(name="big", corpus=corpus, sources=self.sources)

    def fetch(self, shard: str) -> Path:
        out = self.folder / f"{shard}.manifest.json"
        fetch_shard(FetchSpec.of("train", self.sources["train"]), shard, self.folder / "cache", out)
        return out

    def build(self, shard: str, **changes: Any) -> None:
        build_shard(self.spec(**changes), self.fetch(shard), shard, self.out)

    def card(self, **changes: Any) -> dict[str, Any]:
        manifests = []
        if "val" in self.sources:
            manifests = [self.folder / "val.manifest.json"]
            fetch(FetchSpec.of("val", self.sources["val"]), self.folder / "cache", manifests[0])
        build_card(self.spec(**changes), [self.facts(shard) for shard in SHARDS], manifests, self.out)
        card: dict[str, Any] = read_json(self.out / "corpus.json")
        return card


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path)


def test_shards_facts_heldout_and_card(setup: Setup) -> None:
    for shard in SHARDS:
        setup.build(shard)
    card = setup.card()
    documents = {shard: list(read_documents(setup.out / f"shards/{shard}.jsonl.zst")) for shard in SHARDS}
    assert [len(shard) for shard in documents.values()] == [51, 51, 51]
    # Order stays, duplicates stay.
    assert documents["01"][:2] == [Document(text(100).strip(), "Part 0"), Document(text(101).strip(), "Part 1")]
    facts = read_json(setup.facts("01"))
    assert (facts["documents"], facts["read"]) == (51, 53)
    assert facts["dropped"] == {"empty": 1, "short": 1, "not_utf8": 0, "duplicate": 0, "over_limit": 0}
    size = sum(len(document.text.encode()) for document in documents["01"] if document.domain == "Part 0")
    assert facts["domains"]["Part 0"] == {"documents": 26, "bytes": size}
    assert facts["bytes"] == (setup.out / "shards/01.jsonl.zst").stat().st_size

    everything = [document for shard in documents.values() for document in shard]
    assert card["training"] == {"documents": 153, "bytes": sum(len(document.text.encode()) for document in everything)}
    assert card["shards"] == 3
    assert set(card["domains"]) == {"Part 0", "Part 1"}
    assert card["domains"]["Part 0"]["training"]["documents"] == 78
    assert card["sources"]["train"]["dropped"]["short"] == 3
    assert [file["name"] for file in card["sources"]["train"]["files"]] == [f"{shard}.jsonl.zst" for shard in SHARDS]
    assert any("duplicates were not searched for" in note for note in card["notes"])
    assert {f"shards/{shard}.jsonl.zst" for shard in SHARDS} < set(card["files"])
    assert "heldout/part_0.jsonl.zst" in card["files"]

    assert check_manifest(setup.out / "heldout") is None
    for domain in ("Part 0", "Part 1"):
        kept = list(read_documents(setup.out / f"heldout/{domain.lower().replace(' ', '_')}.jsonl.zst"))
        assert 800 < sum(len(document.text) for document in kept) <= 1_000
        assert {document.domain for document in kept} == {domain}
        assert card["domains"][domain]["heldout"]["documents"] == len(kept)


def test_the_same_spec_gives_the_same_bytes(setup: Setup) -> None:
    for shard in SHARDS:
        setup.build(shard)
    setup.card()
    first = {path: path.read_bytes() for path in setup.out.rglob("*") if path.is_file()}
    for shard in reversed(SHARDS):
        setup.build(shard)
    setup.card()
    assert {path: path.read_bytes() for path in setup.out.rglob("*") if path.is_file()} == first


def test_nothing_is_held_out_on_request(setup: Setup) -> None:
    del setup.sources["val"]
    for shard in SHARDS:
        setup.build(shard, heldout_from=None)
    card = setup.card(heldout_from=None)
    assert card["heldout"] == {"documents": 0, "bytes": 0}
    assert [path.name for path in (setup.out / "heldout").iterdir()] == ["manifest.json"]


# --- failures -----------------------------------------------------------------------------------------------


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def corrupt(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def garble(path: Path) -> None:
    line = json.dumps({"text": text(1), "meta": {"pile_set_name": "P"}})
    path.write_bytes(zstandard.compress(f'{line}\n{{"text": '.encode()))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, r"01\.jsonl\.zst: cut off after \d+ bytes.*remove it"),
        (corrupt, r"01\.jsonl\.zst: damaged zstd data near byte \d+.*remove it"),
        (garble, r"01\.jsonl\.zst:2: not JSON .*remove it"),
    ],
)
def test_a_damaged_file_ends_its_shard_alone(setup: Setup, damage: Callable[[Path], None], message: str) -> None:
    setup.build("00")
    whole = setup.raw("01").read_bytes()
    damage(setup.raw("01"))
    with pytest.raises(DataeffError, match=message):
        setup.build("01")
    assert sorted(path.name for path in (setup.out / "shards").iterdir()) == ["00.json", "00.jsonl.zst"]
    setup.raw("01").write_bytes(whole)
    setup.build("01")
    assert sorted(path.name for path in (setup.out / "shards").glob("01*")) == ["01.json", "01.jsonl.zst"]


def test_a_file_that_changes_after_its_fetch_is_noticed(setup: Setup) -> None:
    manifest = setup.fetch("01")
    replaced = setup.raw("02").read_bytes()
    assert len(replaced) != setup.raw("01").stat().st_size or replaced != setup.raw("01").read_bytes()
    record = read_json(manifest)
    setup.raw("01").write_bytes(replaced)
    record["files"][0]["bytes"] = len(replaced)
    manifest.write_text(json.dumps(record))
    with pytest.raises(DataeffError, match=r"01\.jsonl\.zst: changed since it was fetched; run the fetch of 'train'"):
        build_shard(setup.spec(), manifest, "01", setup.out)
    assert list((setup.out / "shards").iterdir()) == []
    setup.raw("01").unlink()
    with pytest.raises(DataeffError, match=r"01\.jsonl\.zst: missing, or changed since it was fetched"):
        build_shard(setup.spec(), manifest, "01", setup.out)


def test_a_missing_file_and_an_unknown_shard_are_named(setup: Setup) -> None:
    setup.raw("01").unlink()
    with pytest.raises(DataeffError, match=r"unknown shard '01'; did you mean|unknown shard '01'; known: 00, 02"):
        setup.fetch("01")
    with pytest.raises(DataeffError, match=r"of files \['00\.jsonl\.zst'\]; shard '01' is made of its own file"):
        build_shard(setup.spec(), setup.fetch("00"), "01", setup.out)


def test_local_files_may_be_removed_once_their_shards_are_made(setup: Setup) -> None:
    for shard in SHARDS:
        setup.build(shard)
        setup.raw(shard).unlink()
    (setup.folder / "train").rmdir()
    assert setup.card()["shards"] == 3


def test_documents_that_are_all_dropped_are_an_error(setup: Setup) -> None:
    with pytest.raises(
        DataeffError, match=r"00\.jsonl\.zst: no document of it is left .*lower corpora.big.min_characters"
    ):
        setup.build("00", min_characters=10_000)
    assert list((setup.out / "shards").iterdir()) == []


def test_a_full_disk_is_one_clear_error_and_leaves_nothing(setup: Setup) -> None:
    setup.build("00")
    size = setup.facts("00").parent.joinpath("00.jsonl.zst").stat().st_size
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            manifest = setup.fetch("01")
            resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))
            build_shard(setup.spec(), manifest, "01", setup.out)
        except BaseException as error:
            os.write(writer, f"{type(error).__name__}: {error}".encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as stream:
        told = stream.read()
    assert told.startswith(f"DataeffError: {setup.out / 'shards/01.jsonl.zst'}: ")
    assert "Free room" in told
    assert sorted(path.name for path in (setup.out / "shards").iterdir()) == ["00.json", "00.jsonl.zst"]


def test_a_full_disk_for_real(setup: Setup, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a file system of 8 kB")
    try:
        big = [Document(os.urandom(2_000).hex(), "Part 0") for _ in range(20)]
        write_documents(setup.raw("01"), big)
        with pytest.raises(DataeffError, match=r"01\.jsonl\.zst: .*No space left on device.*Free room"):
            build_shard(setup.spec(), setup.fetch("01"), "01", small)
        assert [path.name for path in (small / "shards").iterdir()] == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


# --- the card -----------------------------------------------------------------------------------------------


def test_the_card_wants_every_shard_as_it_was_made(setup: Setup) -> None:
    for shard in SHARDS:
        setup.build(shard)
    with pytest.raises(
        DataeffError, match=r"00\.json: made before the corpus's configuration changed; build shard '00'"
    ):
        setup.card(min_characters=11)
    with pytest.raises(DataeffError, match=r"no facts of shards .* are among those given"):
        build_card(setup.spec(), [], [], setup.out)
    with pytest.raises(DataeffError, match="the manifest of heldout_from 'val' is not among those given"):
        build_card(setup.spec(), [setup.facts(shard) for shard in SHARDS], [], setup.out)
    (setup.out / "shards/01.jsonl.zst").write_bytes(b"")
    with pytest.raises(
        DataeffError, match=r"01\.jsonl\.zst: missing, or not as 01\.json says; remove .* build shard '01'"
    ):
        setup.card()
    assert not (setup.out / "corpus.json").exists()


def test_a_domain_whose_documents_are_all_too_long_to_hold_out(setup: Setup) -> None:
    for shard in SHARDS:
        setup.build(shard, heldout_max_bytes=20)
    with pytest.raises(DataeffError, match="no document of domain 'Part 0' in source 'val' has at most 20 bytes"):
        setup.card(heldout_max_bytes=20)


def test_shards_of_a_source_and_of_its_substitute_are_not_mixed(setup: Setup) -> None:
    new = source(setup.folder / "train", licence="new")
    how = {"kind": "http", "mirrors": ["http://127.0.0.1:9"], "files": [{"name": f"{n}.jsonl.zst"} for n in SHARDS]}
    setup.sources["old"] = source(setup.folder, fetch=how, substitute="train")
    spec = setup.spec(sources=["old"], accept_substitutes=True)
    for shard in SHARDS:
        record = read_json(setup.fetch(shard)) | {"source": "old", "licence": new.licence}
        if shard != "02":
            record["substitution"] = {"wanted": "old", "reason": "gone", "taken": "train"}
        manifest = setup.folder / f"{shard}.manifest.json"
        manifest.write_text(json.dumps(record))
        build_shard(spec, manifest, shard, setup.out)
    with pytest.raises(
        DataeffError, match=r"shards of different sources \(shard 01 is of 'train', shard 02 is of 'old'\)"
    ):
        build_card(spec, [setup.facts(shard) for shard in SHARDS], [], setup.out)
