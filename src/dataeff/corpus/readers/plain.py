"""Text as it comes: a file, a line of JSON, a row of a table or a letter to a document."""

from __future__ import annotations

import csv
import email
import email.policy
import io
import re
from collections.abc import Iterable, Iterator
from email.message import EmailMessage

from dataeff.corpus.archive import Member
from dataeff.corpus.readers.base import RawDocument
from dataeff.corpus.shard import read_stream


def read_text(members: Iterable[Member]) -> Iterator[RawDocument]:
    """One document per file: plain text, or program code."""
    for member in members:
        yield RawDocument(member.stream.read(), member.name)


def read_jsonl(members: Iterable[Member]) -> Iterator[RawDocument]:
    """One document per line, .jsonl or .jsonl.zst; the source names the domain, whatever the lines say."""
    for member in members:
        for number, document in enumerate(read_stream(member.stream, member.name, default_domain="")):
            yield RawDocument(document.text, f"{member.name}:{number}")


def read_pile(members: Iterable[Member]) -> Iterator[RawDocument]:
    """As read_jsonl, of a mixture: each line names its own domain in meta.pile_set_name."""
    for member in members:
        for number, document in enumerate(read_stream(member.stream, member.name)):
            yield RawDocument(document.text, f"{member.name}:{number}", document.domain)


_BREAKS = re.compile(r"(?:\s*<br ?/?>\s*)+", re.IGNORECASE)


def read_imdb_reviews(members: Iterable[Member]) -> Iterator[RawDocument]:
    """A table with columns text and source to a document per review of IMDb.

    The other source in it is Rotten Tomatoes, whose sentences are evaluation data (SST-2) and never trained on.
    """
    for member in members:
        rows = csv.DictReader(io.TextIOWrapper(member.stream, encoding="utf-8", newline=""))
        for number, row in enumerate(rows):
            if row["source"] == "imdb":
                yield RawDocument(_BREAKS.sub("\n\n", row["text"]), f"{member.name}:{number}")


# Where a letter ends: the mark before a signature, or the rule above what mailing lists and their sponsors add.
_LETTER_END = re.compile(r"^(?:-- ?|_{20,}|-{20,})$.*", re.MULTILINE | re.DOTALL)


def read_emails(members: Iterable[Member]) -> Iterator[RawDocument]:
    """A file per e-mail to subject and plain text, without headers, attachments and HTML."""
    for member in members:
        message = email.message_from_bytes(member.stream.read(), policy=email.policy.default)
        yield RawDocument(_letter(message), member.name)


def _letter(message: EmailMessage) -> str:
    body = message.get_body(preferencelist=("plain",))
    text = body.get_content() if body is not None else ""
    return f"{message.get('subject', '')}\n\n{_LETTER_END.sub('', text)}" if text.strip() else ""
