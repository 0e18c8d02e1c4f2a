"""Documents survive a round trip through every form of shard; each kind of damage is one clear error."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataeff.corpus import shard as module
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


# --- hostile and damaged files ------------------------------------------------------------------------------

LINES = st.lists(st.one_of(st.binary(max_size=60), st.sampled_from([GOOD.strip(), b"[" * 5_000, b"1" * 5_000])))


@given(st.one_of(st.binary(max_size=300), LINES.map(b"\n".join)), st.booleans(), st.data())
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_documents_or_one_clear_error(
    tmp_path: Path, content: bytes, packed: bool, data: st.DataObject
) -> None:
    path = tmp_path / ("any.jsonl.zst" if packed else "any.jsonl")
    if packed and data.draw(st.booleans()):
        content = zstandard.compress(content)
        place = data.draw(st.integers(0, len(content) - 1))
        content = content[:place] + data.draw(st.binary(max_size=3)) + content[place + data.draw(st.integers(0, 3)) :]
    path.write_bytes(content)
    with contextlib.suppress(DataeffError):
        assert all(isinstance(document, Document) for document in read_documents(path))


def frame_header(window_log: int, content_bytes: int | None = None) -> bytes:
    """The header of a zstd frame (RFC 8878, 3.1.1) with a window of 2**window_log bytes; perhaps a content size."""
    descriptor = 0b11000000 if content_bytes is not None else 0
    header = b"\x28\xb5\x2f\xfd" + bytes([descriptor, (window_log - 10) << 3])
    return header + (content_bytes.to_bytes(8, "little") if content_bytes is not None else b"")


RAW_LAST_BLOCK = (1 | len(GOOD) << 3).to_bytes(3, "little") + GOOD


@pytest.mark.parametrize("window_log", [28, 31, 41])
def test_a_huge_window_is_refused_and_not_allocated(tmp_path: Path, window_log: int) -> None:
    path = tmp_path / "window.jsonl.zst"
    path.write_bytes(frame_header(window_log) + RAW_LAST_BLOCK)
    assert re.search(
        r"window\.jsonl\.zst: compressed with a window of more than 128 MiB", outcome_within(path, 1 << 26)
    )


def test_a_window_of_the_largest_kind_is_read(tmp_path: Path) -> None:
    path = tmp_path / "window.jsonl.zst"
    path.write_bytes(frame_header(27) + RAW_LAST_BLOCK)
    assert list(read_documents(path)) == [Document("a", "d")]


def test_a_declared_content_size_is_not_allocated(tmp_path: Path) -> None:
    path = tmp_path / "size.jsonl.zst"
    path.write_bytes(frame_header(20, content_bytes=1 << 60) + RAW_LAST_BLOCK)
    assert re.search(r"size\.jsonl\.zst: ", outcome_within(path, 1 << 26))


def test_a_line_without_end_is_refused_in_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGEST_LINE_BYTES", 1 << 24)
    path = tmp_path / "bomb.jsonl.zst"
    compressor = zstandard.ZstdCompressor().compressobj()
    with path.open("wb") as stream:
        for _ in range(1 << 10):
            stream.write(compressor.compress(b" " * (1 << 20)))
        stream.write(compressor.flush())
    assert path.stat().st_size < 1 << 18
    assert re.search(r"bomb\.jsonl\.zst:1: a line of more than 16 MiB", outcome_within(path, 1 << 28))


def outcome_within(path: Path, more_bytes: int) -> str:
    """What reading the shard ends with in a process that may take so much more memory than it has."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        outcome = "read"
        try:
            limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + more_bytes
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            for _ in read_documents(path):
                pass
        except BaseException as error:
            outcome = f"{type(error).__name__}: {error}"
        os.write(writer, outcome.encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as stream:
        return stream.read()
