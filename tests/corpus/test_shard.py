"""Documents survive a round trip through every form of shard; each kind of damage is one clear error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from dataeff.corpus.shard import Document, read_documents, write_documents
from dataeff.errors import DataeffError

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
DOCUMENTS = st.lists(st.builds(Document, text=TEXTS, domain=TEXTS), max_size=20)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.zst"])
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    path = tmp_path_factory.mktemp("shard") / name

    @given(DOCUMENTS)
    def check(documents: list[Document]) -> None:
        assert write_documents(path, documents) == len(documents)
        assert list(read_documents(path)) == documents

    check()


def test_a_document_larger_than_a_chunk_and_many_frames(tmp_path: Path) -> None:
    documents = [Document("line\u2028\n" * 60_000, "a"), Document("x", "b")]
    lines = [
        json.dumps({"text": d.text, "meta": {"pile_set_name": d.domain}}, ensure_ascii=False).encode() + b"\n"
        for d in documents
    ]
    path = tmp_path / "frames.jsonl.zst"
    # The cut between frames falls inside a line.
    path.write_bytes(zstandard.compress(lines[0][:500]) + zstandard.compress(lines[0][500:] + lines[1]))
    assert list(read_documents(path)) == documents


def test_equal_documents_give_equal_bytes(tmp_path: Path) -> None:
    documents = [Document(f"document {i} " * 50, "a") for i in range(100)]
    write_documents(tmp_path / "a.jsonl.zst", documents)
    write_documents(tmp_path / "b.jsonl.zst", documents)
    assert (tmp_path / "a.jsonl.zst").read_bytes() == (tmp_path / "b.jsonl.zst").read_bytes()


GOOD = b'{"text": "a", "meta": {"pile_set_name": "d"}}\n'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GOOD + b'{"text": "a", \n', r"bad\.jsonl:2: not JSON"),
        (GOOD + b"\n" + GOOD, r"bad\.jsonl:2: not JSON"),
        (GOOD + GOOD + b'{"meta": {"pile_set_name": "d"}}\n', r'bad\.jsonl:3: .*no "text"'),
        (b'["text"]\n', r'bad\.jsonl:1: .*no "text"'),
        (b'{"text": 3}\n', r'bad\.jsonl:1: .*no "text"'),
        (b'{"text": "a"}\n', r"bad\.jsonl:1: .*pile_set_name"),
        (GOOD + b'{"text": "\xff"}\n', r"bad\.jsonl:2: not UTF-8 at byte 10"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataeffError, match=message) as error:
        list(read_documents(path))
    assert "remove it" in str(error.value)


def test_a_default_domain_serves_lines_without_one(tmp_path: Path) -> None:
    path = tmp_path / "plain.jsonl"
    path.write_bytes(GOOD + b'{"text": "b"}')
    assert list(read_documents(path, default_domain="own")) == [Document("a", "d"), Document("b", "own")]


def test_every_truncation_of_a_shard_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "whole.jsonl.zst"
    write_documents(path, [Document(f"text {i * i}", "a") for i in range(200)])
    data = path.read_bytes()
    cut = tmp_path / "cut.jsonl.zst"
    for length in [*range(0, 30), *range(30, len(data), 97), len(data) - 1]:
        cut.write_bytes(data[:length])
        with pytest.raises(DataeffError, match=r"cut\.jsonl\.zst: cut off after .* remove it"):
            list(read_documents(cut))


def test_a_flipped_bit_is_found_by_the_checksum(tmp_path: Path) -> None:
    path = tmp_path / "flipped.jsonl.zst"
    write_documents(path, [Document(f"text {i * i}", "a") for i in range(200)])
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataeffError, match=r"flipped\.jsonl\.zst: damaged zstd data"):
        list(read_documents(path))


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataeffError, match=r"07\.jsonl\.zst: no such shard"):
        list(read_documents(tmp_path / "07.jsonl.zst"))


def test_half_a_surrogate_pair_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.zst"
    with pytest.raises(DataeffError, match="document 2 holds half a surrogate pair"):
        write_documents(path, [Document("good", "a"), Document("\ud800", "a")])
    assert list(tmp_path.iterdir()) == []
