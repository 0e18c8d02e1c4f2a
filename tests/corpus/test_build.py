"""A small corpus of local files, built whole: shares, held-out parts, the card, and repeatability."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataeff.corpus import build as module
from dataeff.corpus.build import build
from dataeff.corpus.card import check_slugs, slug
from dataeff.corpus.clean import text_digest
from dataeff.corpus.fetch import fetch
from dataeff.corpus.pool import Entry, cut_to_size, hold_out
from dataeff.corpus.readers import find_reader
from dataeff.corpus.selection import needed_sources, shard_names
from dataeff.corpus.shard import Document, read_documents, write_documents
from dataeff.errors import DataeffError
from dataeff.files import check_manifest, read_json, read_yaml
from dataeff.study.fetches import DebianFetch, HubFetch, PackageFetch, PathFetch
from dataeff.study.load import CorporaFile, validate
from dataeff.study.specs import CorpusSpec, FetchSpec
from dataeff.study.types import Corpus, Source

WORDS = [
    "time",
    "year",
    "people",
    "way",
    "day",
    "man",
    "thing",
    "woman",
    "life",
    "child",
    "world",
    "school",
    "state",
    "family",
    "student",
]


def text(number: int) -> str:
    picker = random.Random(number)
    return " ".join(picker.choice(WORDS) for _ in range(picker.randrange(60, 120)))


def make_source(path: Path, domain: str, reader: str, members: list[str] | None = None) -> Source:
    how = PathFetch(kind="path", path=str(path))
    return Source(
        domain=domain,
        about="made up",
        licence="CC0",
        stands_in_for="nothing",
        fetch=how,
        reader=reader,
        members=members or [],
    )


class Setup:
    """Two sources in two domains: a folder of .txt files with every kind of bad one, and a .jsonl.zst."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "texts").mkdir()
        for number in range(60):
            (folder / f"texts/{number:02d}.txt").write_text(text(number))
        (folder / "texts/latin1.txt").write_bytes(b"caf\xe9 " * 100)
        (folder / "texts/empty.txt").write_bytes(b"")
        (folder / "texts/short.txt").write_text("too short")
        (folder / "texts/again.txt").write_text(text(7).upper().replace(" ", "\r\n"))
        # The last of these is a duplicate across sources.
        lines = [Document(text(number), "theirs") for number in [*range(100, 180), 3]]
        write_documents(folder / "lines.jsonl.zst", lines)
        self.sources = {
            "files": make_source(folder / "texts", "Plain Files!", "text"),
            "lines": make_source(folder / "lines.jsonl.zst", "Lines", "jsonl"),
        }

    def spec(self, **changes: Any) -> CorpusSpec:
        fields = {"about": "a", "sources": list(self.sources), "heldout": "1/10", "shards": 3}
        return CorpusSpec(name="small", corpus=Corpus.model_validate(fields | changes), sources=self.sources)

    def manifests(self) -> list[Path]:
        paths = []
        for name, source in self.sources.items():
            paths.append(self.folder / f"{name}.json")
            fetch(FetchSpec.of(name, source), self.folder / "cache", paths[-1])
        return paths

    def build(self, out: str = "out", **changes: Any) -> Path:
        build(self.spec(**changes), self.manifests(), self.folder / out)
        return self.folder / out


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path)


def documents(folder: Path) -> list[Document]:
    return [document for path in sorted(folder.glob("*.zst")) for document in read_documents(path)]


def test_files_and_card(setup: Setup) -> None:
    out = setup.build()
    assert sorted(path.name for path in out.iterdir()) == ["corpus.json", "heldout", "shards"]
    assert sorted(path.name for path in (out / "shards").glob("*.zst")) == [f"0{i}.jsonl.zst" for i in range(3)]
    assert sorted(p.name for p in (out / "heldout").glob("*.zst")) == [
        "lines.jsonl.zst",
        "plain_files.jsonl.zst",
    ]
    assert check_manifest(out / "shards") is None
    assert check_manifest(out / "heldout") is None
    card = read_json(out / "corpus.json")
    assert card["sources"]["files"]["dropped"] == {
        "empty": 1,
        "short": 1,
        "not_utf8": 1,
        "duplicate": 1,
        "over_limit": 0,
    }
    assert card["sources"]["lines"]["dropped"]["duplicate"] == 1
    assert card["sources"]["files"]["documents_read"] == 64
    training, heldout = documents(out / "shards"), documents(out / "heldout")
    assert {document.domain for document in training} == {"Plain Files!", "Lines"}
    for part, found in (("training", training), ("heldout", heldout)):
        size = {"documents": len(found), "bytes": sum(len(document.text.encode()) for document in found)}
        assert card[part] == size
    assert sorted(document.text for document in training + heldout) == sorted(map(text, [*range(60), *range(100, 180)]))
    assert set(card["files"]) == {f"shards/0{i}.jsonl.zst" for i in range(3)} | {
        "heldout/lines.jsonl.zst",
        "heldout/plain_files.jsonl.zst",
    }


def test_heldout_is_disjoint_and_within_its_budget(setup: Setup) -> None:
    out = setup.build(heldout_max_bytes=2_500)
    training = {text_digest(document.text) for document in documents(out / "shards")}
    for name in ("lines", "plain_files"):
        heldout = list(read_documents(out / f"heldout/{name}.jsonl.zst"))
        assert 1_000 < sum(len(document.text) for document in heldout) <= 2_500
        assert not training & {text_digest(document.text) for document in heldout}


def test_training_is_shuffled_over_domains(setup: Setup) -> None:
    first = [document.domain for document in read_documents(setup.build() / "shards/00.jsonl.zst")]
    assert sum(a != b for a, b in pairwise(first)) > 5


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_same_spec_same_bytes_other_seed_other_bytes(setup: Setup) -> None:
    first = contents(setup.build("first", max_bytes_per_source=20_000))
    assert contents(setup.build("second", max_bytes_per_source=20_000)) == first
    other = contents(setup.build("third", max_bytes_per_source=20_000, seed=5))
    assert other["shards/00.jsonl.zst"] != first["shards/00.jsonl.zst"]


def test_a_source_is_cut_to_size(setup: Setup) -> None:
    card = read_json(setup.build(max_bytes_per_source=10_000) / "corpus.json")
    for source in card["sources"].values():
        kept = source["training"]["bytes"] + source["heldout"]["bytes"]
        assert 9_000 < kept <= 10_000
        assert source["dropped"]["over_limit"] > 0
        assert not source["stopped_early"]


def test_a_huge_source_is_not_read_to_its_end(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POOL_FACTOR", 2)
    card = read_json(setup.build(max_bytes_per_source=10_000) / "corpus.json")
    assert card["sources"]["lines"]["stopped_early"]
    assert card["sources"]["lines"]["documents_read"] < 60


def test_nothing_is_held_out_on_request(setup: Setup) -> None:
    out = setup.build(heldout=0)
    assert documents(out / "heldout") == []
    assert len(documents(out / "shards")) == 140


def test_the_pile_reader_takes_domains_from_the_lines(setup: Setup) -> None:
    mixture = [Document(text(number), f"part {number % 2}") for number in range(80)]
    write_documents(setup.folder / "mix.jsonl", mixture)
    setup.sources = {"mix": make_source(setup.folder / "mix.jsonl", "Mixture", "pile")}
    out = setup.build()
    assert set(read_json(out / "corpus.json")["domains"]) == {"part 0", "part 1"}
    assert (out / "heldout/part_1.jsonl.zst").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_characters": 10_000}, r"sources\.files: no document of it is left .*lower min_characters"),
        ({"heldout_max_bytes": 10}, r"domain 'Plain Files!' has no block of at most 10 bytes to hold out"),
        ({"shards": 500}, r"training documents for 500 shards; lower shards"),
    ],
)
def test_settings_that_leave_nothing_are_named(setup: Setup, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataeffError, match=message):
        setup.build(**changes)
    assert not (setup.folder / "out/corpus.json").exists()


def test_a_changed_file_is_noticed(setup: Setup) -> None:
    manifests = setup.manifests()
    (setup.folder / "texts/05.txt").write_text("changed")
    with pytest.raises(DataeffError, match=r"05\.txt: missing, or changed since it was fetched"):
        build(setup.spec(), manifests, setup.folder / "out")


def test_a_missing_manifest_is_named(setup: Setup) -> None:
    with pytest.raises(DataeffError, match=r"corpus small: no manifest of source 'lines' .*files\.json"):
        build(setup.spec(), setup.manifests()[:1], setup.folder / "out")


def test_a_bad_line_stops_the_build_and_leaves_no_outputs(setup: Setup) -> None:
    (setup.folder / "bad.jsonl").write_text(json.dumps({"text": text(1)}) + "\n{oops\n")
    setup.sources["bad"] = make_source(setup.folder / "bad.jsonl", "Bad", "jsonl")
    with pytest.raises(DataeffError, match=r"bad\.jsonl:2: not JSON"):
        setup.build()
    assert list((setup.folder / "out").iterdir()) == []


@pytest.mark.parametrize("reader", ["pubmed_xml", "verses", "wiki_summaries"])
def test_a_file_of_another_form_names_the_reader(setup: Setup, reader: str) -> None:
    (setup.folder / "odd.dat").write_text('{"a": {"b": 1}}\n')
    setup.sources["odd"] = make_source(setup.folder / "odd.dat", "Odd", reader)
    with pytest.raises(DataeffError, match=rf"odd\.dat: reader '{reader}' cannot read it"):
        setup.build()


def test_a_damaged_archive_is_named(setup: Setup) -> None:
    (setup.folder / "broken.tar.gz").write_bytes(b"no archive")
    setup.sources["broken"] = make_source(setup.folder / "broken.tar.gz", "Broken", "text")
    with pytest.raises(DataeffError, match=r"broken\.tar\.gz: reader 'text' cannot read it"):
        setup.build()


def test_two_domains_with_one_file_name(setup: Setup) -> None:
    setup.sources["lines"] = make_source(setup.folder / "lines.jsonl.zst", "plain-files", "jsonl")
    with pytest.raises(DataeffError, match="file name 'plain_files' is empty or another domain's"):
        setup.build()


ENTRIES = st.lists(st.tuples(st.integers(0, 8), st.integers(1, 50)), max_size=40).map(
    lambda rows: [Entry("s", "d", f"b{block}", index, size) for index, (block, size) in enumerate(rows)]
)


@given(ENTRIES, st.integers(0, 400), st.integers(0, 2**64 - 1))
def test_hold_out_splits_by_whole_blocks_within_the_budget(entries: list[Entry], budget: int, key: int) -> None:
    training, heldout = hold_out(entries, budget, key)
    assert sorted(training + heldout, key=lambda entry: entry.offset) == entries
    assert sum(entry.bytes for entry in heldout) <= budget
    assert not {entry.block for entry in training} & {entry.block for entry in heldout}


@given(ENTRIES, st.integers(1, 400), st.integers(0, 2**64 - 1))
def test_cut_to_size_keeps_within_the_limit(entries: list[Entry], limit: int, key: int) -> None:
    kept = cut_to_size(entries, limit, key)
    assert sum(entry.bytes for entry in kept) <= limit
    assert len(set(kept)) == len(kept)
    assert set(kept) <= set(entries)
    if sum(entry.bytes for entry in entries) <= limit:
        assert set(kept) == set(entries)


def test_slugs() -> None:
    assert slug("Gutenberg (PG-19)") == "gutenberg_pg_19"


def test_a_strict_licence_leaves_sources_out_and_the_card_says_so(setup: Setup) -> None:
    setup.sources["lines"] = setup.sources["lines"].model_copy(update={"redistributable": False, "licence": "murky"})
    manifests = setup.manifests()
    build(setup.spec(strict_licence=True), manifests[:1], setup.folder / "out")
    card = read_json(setup.folder / "out/corpus.json")
    assert set(card["sources"]) == {"files"}
    assert card["left_out"]["lines"]["licence"] == "murky"
    assert "strict_licence" in card["left_out"]["lines"]["reason"]
    setup.sources["files"] = setup.sources["files"].model_copy(update={"redistributable": False})
    with pytest.raises(DataeffError, match=r"corpora\.small\.strict_licence: no source is left; files, lines"):
        build(setup.spec(strict_licence=True), manifests, setup.folder / "out")


def test_a_substitute_is_read_as_what_it_is(setup: Setup) -> None:
    missing = make_source(setup.folder / "gone", "Gone", "text").model_copy(update={"substitute": "lines"})
    lines = setup.sources.pop("lines")
    setup.sources["wanted"] = missing
    spec = setup.spec(accept_substitutes=True)
    spec = spec.model_copy(update={"sources": {**setup.sources, "lines": lines}})
    paths = [setup.folder / "files.json", setup.folder / "wanted.json"]
    fetch(FetchSpec.of("files", setup.sources["files"]), setup.folder / "cache", paths[0])
    fetch(FetchSpec.of("wanted", missing, {"lines": lines}), setup.folder / "cache", paths[1])
    build(spec, paths, setup.folder / "out")
    card = read_json(setup.folder / "out/corpus.json")
    assert set(card["sources"]) == {"files", "lines"}
    assert card["sources"]["lines"]["training"]["documents"] > 0
    assert card["sources"]["lines"]["domain"] == "Lines"
    (substitution,) = card["substitutions"]
    assert (substitution["wanted"], substitution["taken"]) == ("wanted", "lines")
    assert "gone: no such file or folder" in substitution["reason"]
    refusing = spec.model_copy(update={"corpus": spec.corpus.model_copy(update={"accept_substitutes": False})})
    with pytest.raises(DataeffError, match=r"sources\.wanted: its substitute 'lines' was fetched, which corpus small"):
        build(refusing, paths, setup.folder / "out")


def shipped() -> CorporaFile:
    path = Path(__file__).parents[2] / "config/corpora.yaml"
    return validate(CorporaFile, read_yaml(path), str(path))


def test_the_shipped_sources_are_pinned_and_have_readers() -> None:
    for name, source in shipped().sources.items():
        find_reader(source.reader, name)
        how = source.fetch
        assert isinstance(how, PackageFetch | DebianFetch | HubFetch) or all(
            file.sha256 and file.bytes for file in how.files
        ), name


def test_the_shipped_corpora_are_whole() -> None:
    corpora = shipped()
    for name, corpus in corpora.corpora.items():
        needed = needed_sources(name, corpus, corpora.sources)
        assert set(corpus.sources) <= set(needed)
        assert len(set(shard_names(corpus, corpora.sources))) >= corpus.shards
        check_slugs({corpora.sources[source].domain for source in corpus.sources})
    train = [f"{number:02d}" for number in range(30)]
    for name in ("pile", "pile_uncopyrighted"):
        assert shard_names(corpora.corpora[name], corpora.sources) == train


def test_no_evaluation_data_is_trained_on() -> None:
    packages = {source.fetch.package for source in shipped().sources.values() if source.fetch.kind in ("pypi", "npm")}  # type: ignore[union-attr]
    assert not packages & {"bigbench", "evals"}
