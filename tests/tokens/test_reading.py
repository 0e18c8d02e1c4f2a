"""Blocks hold every line once, in order; each fault of a shard stops it with file, line and remedy."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from dataeff.corpus.shard import Document, read_documents, write_documents
from dataeff.errors import DataeffError
from dataeff.tokens.reading import Block, Texts, line_blocks, parse, read_ahead

texts = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), max_size=12)


def read(path: Path, text_key: str = "text", block_bytes: int = 1 << 20) -> list[Document]:
    documents = []
    for block in read_ahead(line_blocks(path, block_bytes)):
        parsed = parse(block, str(path), text_key)
        documents += [Document(*pair) for pair in zip(parsed.texts, parsed.domains, strict=True)]
    return documents


@given(texts, st.sampled_from([1, 40, 1 << 20]), st.sampled_from(["00.jsonl", "00.jsonl.zst"]))
@settings(max_examples=80, deadline=None)
def test_reads_what_the_corpus_reader_reads(given_texts: list[str], block_bytes: int, name: str) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        write_documents(path, [Document(text, f"d{number % 3}") for number, text in enumerate(given_texts)])
        assert read(path, block_bytes=block_bytes) == list(read_documents(path))


@given(st.lists(st.binary(max_size=9).filter(lambda line: b"\n" not in line), max_size=20), st.integers(1, 30))
@settings(max_examples=80, deadline=None)
def test_blocks_number_their_lines(lines: list[bytes], block_bytes: int) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.jsonl"
        path.write_bytes(b"\n".join(lines))
        blocks = list(line_blocks(path, block_bytes))
        assert b"".join(block.data for block in blocks) == path.read_bytes()
        first = 1
        for block in blocks:
            assert block.first_line == first
            first += block.data.count(b"\n")
        assert all(block.data.endswith(b"\n") for block in blocks[:-1])
        assert [block.read_bytes for block in blocks] == sorted(block.read_bytes for block in blocks)


def test_frames_one_after_the_other_are_one_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.zst"
    compress = zstandard.ZstdCompressor().compress
    path.write_bytes(compress(b'{"text": "a"}\n{"te') + compress(b'xt": "b"}\n'))
    assert read(path) == [Document("a", ""), Document("b", "")]


def parsed(line: str | bytes, text_key: str = "text") -> Texts:
    data = line if isinstance(line, bytes) else line.encode()
    return parse(Block(7, data + b"\n", 1), "a.jsonl", text_key)


@pytest.mark.parametrize(
    ("line", "text_key", "expected"),
    [
        ('{"text": "a"}', "text", ("a", "")),
        ('{"text": "a"}\r', "text", ("a", "")),
        ('{"text": "a", "meta": {}}', "text", ("a", "")),
        ('{"text": "a", "meta": null}', "text", ("a", "")),
        ('{"text": "a", "meta": "x"}', "text", ("a", "")),
        ('{"text": "a", "meta": {"pile_set_name": "Github"}}', "text", ("a", "Github")),
        ('{"text": "a", "content": "b"}', "content", ("b", "")),
        (r'{"text": "\ud83d\ude00\u0000 \u2028"}', "text", ("\U0001f600\0 \u2028", "")),
        # what Python's parser takes and the fast one does not
        ('{"text": "a", "score": NaN, "id": 123456789012345678901234567890}', "text", ("a", "")),
        ('{"text": "a", "meta": {"pile_set_name": "Github", "score": -Infinity}}', "text", ("a", "Github")),
    ],
)
def test_lines_in_many_forms(line: str, text_key: str, expected: tuple[str, str]) -> None:
    assert parsed(line, text_key) == Texts([expected[0]], [expected[1]])
    assert json.loads(line)[text_key] == expected[0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ('{"text": "a"} {}', "not JSON"),
        ('{"text": "a\tb"}'.replace("\\t", "\t"), "not JSON"),
        (b'{"text": "\xff"}', "not UTF-8 at byte 10 of the line"),
        (b'{"text": "\xed\xa0\x80"}', "not UTF-8 at byte 10 of the line"),
        ("[" * 100_000, "not JSON"),
        ("[1]", 'this one has no "text"'),
        ('"text"', 'this one has no "text"'),
        ("null", 'this one has no "text"'),
        ('{"content": "a"}', 'this one has no "text"'),
        ('{"text": 3}', 'this one has no "text"'),
        ('{"text": null}', 'this one has no "text"'),
        ('{"text": "a", "meta": {"pile_set_name": 3}}', "is 3, not a name"),
        ('{"text": "a", "meta": {"pile_set_name": null}}', "is None, not a name"),
        (r'{"text": "ab\ud800"}', "half a surrogate pair at character 2"),
        (r'{"text": "ab", "meta": {"pile_set_name": "\udc00"}}', "half a surrogate pair at character 0"),
    ],
)
def test_a_faulty_line_is_named(line: str | bytes, message: str) -> None:
    with pytest.raises(DataeffError, match=rf"^a\.jsonl:7: .*{message}.*; remove it and run"):
        parsed(line)


@pytest.mark.parametrize("cut", [1, 9, 100])
def test_a_truncated_file_is_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "00.jsonl.zst"
    write_documents(path, [Document("some text " * number, "d") for number in range(200)])
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(DataeffError, match=r"00\.jsonl\.zst: cut off after \d+ bytes"):
        read(path)


def test_damage_inside_is_found(tmp_path: Path) -> None:
    path = tmp_path / "00.jsonl.zst"
    write_documents(path, [Document("some text " * number, "d") for number in range(200)])
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x55
    path.write_bytes(data)
    with pytest.raises(DataeffError, match=r"00\.jsonl\.zst:.*; remove it and run"):
        read(path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataeffError, match="no such shard"):
        read(tmp_path / "00.jsonl")


def test_an_empty_file_has_no_documents(tmp_path: Path) -> None:
    (tmp_path / "00.jsonl").write_bytes(b"")
    write_documents(tmp_path / "00.jsonl.zst", [])
    assert read(tmp_path / "00.jsonl") == read(tmp_path / "00.jsonl.zst") == []


def test_reading_ahead_passes_errors_on_in_their_place(tmp_path: Path) -> None:
    def blocks():  # type: ignore[no-untyped-def]
        yield Block(1, b"a", 1)
        raise DataeffError("damaged")

    ahead = read_ahead(blocks())
    assert next(ahead).data == b"a"
    with pytest.raises(DataeffError, match="damaged"):
        next(ahead)


def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataeff.tokens.reading.LARGEST_LINE_BYTES", 1 << 20)
    path = tmp_path / "endless.jsonl.zst"
    path.write_bytes(zstandard.ZstdCompressor().compress(b'{"text": "a"}\n' + b" " * (1 << 24)))
    blocks = line_blocks(path, 1 << 16)
    with pytest.raises(DataeffError, match=r"endless\.jsonl\.zst:\d: a line of more than"):
        list(blocks)
