"""One function per form of source: open files in, raw documents out, as a stream.

A reader knows where texts begin and end in its form and what in it is not text (markup, licence pages); it
leaves cleaning to clean.py. A raw document carries a `block`: documents of a block are neighbours in one work
(passages of a book, chapters), chosen and held out together. Otherwise the passages around a held-out one
would be trained on. A new form is a function here and its name in READERS.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import IO, Any, cast
from xml.etree.ElementTree import Element, iterparse

from dataeff.corpus.archive import Member
from dataeff.corpus.clean import unify_newlines
from dataeff.corpus.shard import read_stream
from dataeff.errors import DataeffError, unknown_name

PASSAGE_CHARACTERS = 6_000
PASSAGES_PER_BLOCK = 4
CHAPTERS_PER_BLOCK = 4


@dataclass(frozen=True, slots=True)
class RawDocument:
    """Text, or bytes that are not known to be UTF-8; `domain` only where the file itself names it."""

    text: str | bytes
    block: str
    domain: str | None = None


Reader = Callable[[Iterable[Member]], Iterator[RawDocument]]


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


# --- books --------------------------------------------------------------------------------------------------

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


# --- encyclopaedia and abstracts ----------------------------------------------------------------------------


def read_wiki_summaries(members: Iterable[Member]) -> Iterator[RawDocument]:
    """A JSON object of {title: {"title", "extract"}} to title and extract."""
    for member in members:
        for page in json.load(member.stream).values():
            yield RawDocument(f"{page['title']}\n\n{_close_gaps(page['extract'])}", page["title"])


def _close_gaps(text: str) -> str:
    """Closes the holes that removed formulas, sounds and references left in Wikipedia's plain extracts."""
    text = re.sub(r"[^\S\n]+", " ", text)
    text = re.sub(r"\([\s,;]*\) ?", "", text)
    text = re.sub(r"\((?:[,;] ?)+", "(", text)
    text = re.sub(r" +(?=[,;.)])|(?<=\() ", "", text)
    # The extracts run paragraphs together with single newlines.
    return re.sub(r"\s*\n\s*", "\n\n", text)


def read_pubmed_xml(members: Iterable[Member]) -> Iterator[RawDocument]:
    """A MEDLINE citation set (.xml or .xml.gz) to a document per abstract: title, then its sections."""
    for member in members:
        packed = member.name.endswith(".gz")
        stream = cast(IO[bytes], gzip.GzipFile(fileobj=member.stream)) if packed else member.stream
        for article in _elements(stream, "MedlineCitation"):
            abstract = article.find("Article/Abstract")
            if abstract is not None:
                sections = [_section(part) for part in abstract.findall("AbstractText")]
                # MEDLINE writes translated titles in brackets: [Title of a paper in German].
                title = re.sub(r"^\[(.*?)\](\.?)$", r"\1\2", _plain(article.find("Article/ArticleTitle")))
                yield RawDocument("\n".join([title, *filter(None, sections)]), article.findtext("PMID", ""))


def _elements(stream: IO[bytes], tag: str) -> Iterator[Element]:
    """Each element of a tag, once it is complete; what was read before is let go: memory stays flat."""
    events = iterparse(stream, events=("start", "end"))
    _, root = next(events)
    for event, element in events:
        if event == "end" and element.tag == tag:
            yield element
            root.clear()


def _section(part: Element) -> str:
    label, text = part.get("Label", ""), _plain(part)
    return f"{label}: {text}" if text and label not in ("", "UNLABELLED") else text


def _plain(element: Element | None) -> str:
    return "" if element is None else " ".join("".join(element.itertext()).split())


READERS: dict[str, Reader] = {
    "gutenberg": read_gutenberg,
    "jsonl": read_jsonl,
    "pile": read_pile,
    "pubmed_xml": read_pubmed_xml,
    "text": read_text,
    "verses": read_verses,
    "wiki_summaries": read_wiki_summaries,
}


def find_reader(name: str, where: str) -> Reader:
    if name not in READERS:
        raise unknown_name("reader", name, READERS, where)
    return READERS[name]


def unreadable(path: str, reader: str, error: Exception) -> DataeffError:
    """What to say of a file that its reader cannot make sense of."""
    detail: Any = f"no key {error}" if isinstance(error, KeyError) else error or type(error).__name__
    return DataeffError(
        f"{path}: reader '{reader}' cannot read it ({detail}); give the source the reader of its form "
        f"(known: {', '.join(sorted(READERS))}), or remove the damaged file and fetch it again"
    )
