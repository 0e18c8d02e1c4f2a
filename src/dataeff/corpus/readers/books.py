"""Books: Project Gutenberg's texts in passages, and verses in chapters."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from itertools import groupby

from dataeff.corpus.archive import Member
from dataeff.corpus.clean import unify_newlines
from dataeff.corpus.readers.base import RawDocument

PASSAGE_CHARACTERS = 6_000
PASSAGES_PER_BLOCK = 4
CHAPTERS_PER_BLOCK = 4

_BOOK_START = re.compile(r"^\*\*\* ?START OF (?:THE|THIS) PROJECT GUTENBERG.*$", re.MULTILINE)
_BOOK_END = re.compile(
    r"^(?:\*\*\* ?END OF (?:THE|THIS) PROJECT GUTENBERG|End of (?:The )?Project Gutenberg).*$", re.MULTILINE
)
_PARAGRAPH_GAP = re.compile(r"\n(?:[^\S\n]*\n)+")
# Notes by the people who made the file, and whatever else speaks of the project.
_NOT_THE_BOOK = re.compile(
    r"^\s*\(?(?:Produced by|E-?text prepared by|Additional editing by)\b|Project Gutenberg|pgdp\.net", re.I
)


def read_gutenberg(members: Iterable[Member]) -> Iterator[RawDocument]:
    """Passages of the books in each file, without Project Gutenberg's headers, licences and notes."""
    for member in members:
        data = member.stream.read()
        try:
            text = unify_newlines(data.decode("utf-8-sig"))
        except UnicodeDecodeError:
            yield RawDocument(data, member.name)
            continue
        for book, body in enumerate(book_bodies(text)):
            for number, passage in enumerate(passages(body)):
                yield RawDocument(passage, f"{member.name}:{book}:{number // PASSAGES_PER_BLOCK}")


def book_bodies(text: str) -> Iterator[str]:
    """What stands between each start marker and the next end marker; all of a text without start marker."""
    starts = [match.end() for match in _BOOK_START.finditer(text)]
    for start in starts or [0]:
        end = _BOOK_END.search(text, start)
        yield text[start : end.start() if end else len(text)]


def passages(text: str) -> Iterator[str]:
    """`text` cut between paragraphs into pieces of at most PASSAGE_CHARACTERS; a longer paragraph stays."""
    pending: list[str] = []
    length = 0
    for paragraph in _PARAGRAPH_GAP.split(text):
        if not paragraph.strip() or _NOT_THE_BOOK.search(paragraph):
            continue
        if pending and length + len(paragraph) > PASSAGE_CHARACTERS:
            yield "\n\n".join(pending)
            pending, length = [], 0
        pending.append(paragraph)
        length += len(paragraph)
    if pending:
        yield "\n\n".join(pending)


def read_verses(members: Iterable[Member]) -> Iterator[RawDocument]:
    """A JSON line per verse ({"book", "chapter", "text"}) to a document per chapter, a verse per line."""
    for member in members:
        verses = (json.loads(line) for line in member.stream)
        for (book, chapter), group in groupby(verses, key=lambda verse: (verse["book"], verse["chapter"])):
            # The source marks a verse that its edition lacks by "[]".
            lines = [verse["text"] for verse in group if verse["text"] != "[]"]
            block = f"{member.name}:{book}:{(chapter - 1) // CHAPTERS_PER_BLOCK}"
            yield RawDocument("\n".join([f"{book} {chapter}", "", *lines]), block)
