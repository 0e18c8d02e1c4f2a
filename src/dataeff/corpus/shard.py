"""Documents to and from shards: .jsonl or .jsonl.zst in the Pile's form.

A line is {"text": ..., "meta": {"pile_set_name": domain}}. The reader is strict and streaming: a damaged or
foreign file stops the stage that reads it, with file, line and remedy in one message, since a shard that is
silently short changes every result after it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import zstandard

from dataeff.errors import DataeffError
from dataeff.files import atomic_path

COMPRESSION_LEVEL = 9
CHUNK_BYTES = 1 << 17
LARGEST_WINDOW_BYTES = 1 << 27
"""The limit of zstd's own command without `--long=N` (`--ultra -22` needs as much). A frame's header may ask for up to
16 times that, and whoever decompresses allocates it."""
LARGEST_LINE_BYTES = 1 << 26
"""A hundred times the mean book of the Pile. A damaged or hostile file may go on without end, and cleaning a document
takes up to 16 times its bytes (four per character, in a few copies)."""
# Four bytes may stand for 128 KiB. Fed with so little at a time, zstd answers with 128 MiB at most.
_SLICE_BYTES = 1 << 12
REMEDY = "remove it and run the stage that makes it again (or bring your own file whole)"


@dataclass(frozen=True, slots=True)
class Document:
    text: str
    domain: str


def read_documents(path: Path, default_domain: str | None = None) -> Iterator[Document]:
    """The documents of a shard, in order; a line that names no domain gets `default_domain`, if any."""
    path = Path(path)
    try:
        stream = path.open("rb")
    except FileNotFoundError:
        raise DataeffError(f"{path}: no such shard; {REMEDY}") from None
    with stream:
        yield from read_stream(stream, str(path), default_domain)


def read_stream(stream: IO[bytes], name: str, default_domain: str | None = None) -> Iterator[Document]:
    """As read_documents, of an open file; its `name` tells (.zst) if it is compressed."""
    blocks = decompressed(stream, name) if name.endswith(".zst") else iter(lambda: stream.read(CHUNK_BYTES), b"")
    for number, line in enumerate(_lines(blocks, name), start=1):
        yield _document(line, f"{name}:{number}", default_domain)


def decompressed(stream: IO[bytes], name: str) -> Iterator[bytes]:
    """The bytes of zstd frames. (zstandard's own reader takes a cut-off frame for the end of the file.)"""
    decompressor, read_bytes = _new_decompressor(), 0
    try:
        while chunk := stream.read(CHUNK_BYTES):
            for begin in range(0, len(chunk), _SLICE_BYTES):
                piece = chunk[begin : begin + _SLICE_BYTES]
                read_bytes += len(piece)
                while piece:
                    if decompressor.eof:
                        decompressor = _new_decompressor()
                    if data := decompressor.decompress(piece):
                        yield data
                    piece = decompressor.unused_data
    except zstandard.ZstdError as error:
        detail = f"damaged zstd data near byte {read_bytes} ({error}); {REMEDY}"
        if "too much memory" in str(error):
            detail = (
                f"compressed with a window of more than {LARGEST_WINDOW_BYTES >> 20} MiB ({error}); compress it again "
                f"without --long"
            )
        raise DataeffError(f"{name}: {detail}") from None
    if not decompressor.eof:
        raise DataeffError(f"{name}: cut off after {read_bytes} bytes, in the middle of its zstd data; {REMEDY}")


def _new_decompressor() -> zstandard.ZstdDecompressionObj:
    return zstandard.ZstdDecompressor(max_window_size=LARGEST_WINDOW_BYTES).decompressobj()


def _lines(blocks: Iterable[bytes], name: str) -> Iterator[bytes]:
    """Lines without their end. Only the byte \\n ends one: str.splitlines would also cut at U+2028."""
    parts: list[bytes] = []
    size = number = 0
    for block in blocks:
        head, *tail = block.split(b"\n")
        parts.append(head)
        size += len(head)
        for following in tail:
            number += 1
            line = b"".join(parts)
            parts, size = [following], len(following)
            yield line
        if size > LARGEST_LINE_BYTES:
            raise endless_line(f"{name}:{number + 1}")
    if last := b"".join(parts):
        yield last


def endless_line(where: str) -> DataeffError:
    return DataeffError(
        f"{where}: a line of more than {LARGEST_LINE_BYTES >> 20} MiB; this is no shard with a document per line, or "
        f"that document has to be taken out of it"
    )


def _document(line: bytes, where: str, default_domain: str | None) -> Document:
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataeffError(f"{where}: not UTF-8 at byte {error.start} of the line; {REMEDY}") from None
    except (ValueError, RecursionError) as error:
        raise DataeffError(f"{where}: not JSON ({error}); {REMEDY}") from None
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        raise DataeffError(f'{where}: a line {{"text": ..., "meta": ...}} is needed, this one has no "text"; {REMEDY}')
    meta = record.get("meta")
    domain = meta.get("pile_set_name", default_domain) if isinstance(meta, dict) else default_domain
    if not isinstance(domain, str):
        raise DataeffError(f'{where}: the line has no "meta": {{"pile_set_name": ...}} that names its domain; {REMEDY}')
    return Document(record["text"], domain)


def write_documents(path: Path, documents: Iterable[Document], level: int = COMPRESSION_LEVEL) -> int:
    """Writes a shard (zstd if the name ends in .zst), whole or not at all; the number of documents.

    One thread, one level, and a checksum in the frame: same documents, same bytes, and damage is found.
    """
    path = Path(path)
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        if path.suffix != ".zst":
            return _write_lines(stream, documents, path)
        compressor = zstandard.ZstdCompressor(level=level, write_checksum=True)
        with compressor.stream_writer(stream, closefd=False) as writer:
            return _write_lines(writer, documents, path)


def _write_lines(stream: IO[bytes], documents: Iterable[Document], path: Path) -> int:
    count = 0
    for document in documents:
        record = {"text": document.text, "meta": {"pile_set_name": document.domain}}
        try:
            stream.write(json.dumps(record, ensure_ascii=False).encode("utf-8") + b"\n")
        except UnicodeEncodeError:
            raise DataeffError(
                f"{path}: document {count + 1} holds half a surrogate pair, no UTF-8; clean it first"
            ) from None
        count += 1
    return count
