"""Encyclopaedias: Wikipedia's lead sections as plain text, its pages as markup, and countries' facts."""

from __future__ import annotations

import bz2
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any, cast

from dataeff.corpus.archive import Member
from dataeff.corpus.readers.base import RawDocument, elements


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


# Bots' and editors' notes that no reader of the page sees.
_COMMENT = re.compile(r"<!--.*?-->\n?", re.DOTALL)
_REDIRECT = re.compile(r"\s*#REDIRECT\b", re.IGNORECASE)


def read_wiki_markup(members: Iterable[Member]) -> Iterator[RawDocument]:
    """A MediaWiki export (.xml or .xml.bz2) to a document per article, in its own markup, under its title."""
    for member in members:
        packed = member.name.endswith(".bz2")
        stream = cast(IO[bytes], bz2.BZ2File(member.stream)) if packed else member.stream
        for page in elements(stream, "page"):
            text = page.findtext("revision/text") or ""
            if page.findtext("ns") == "0" and page.find("redirect") is None and not _REDIRECT.match(text):
                title = page.findtext("title", "")
                yield RawDocument(f"{title}\n\n{_COMMENT.sub('', text)}", title)


def read_factbook(members: Iterable[Member]) -> Iterator[RawDocument]:
    """A country's JSON of sections of facts ({"Geography": {"Area": {"text": ...}}}) to one document."""
    for member in members:
        parts = []
        for section, facts in json.load(member.stream).items():
            lines = list(_facts(facts))
            if lines:
                parts.append("\n".join([section, *lines]))
        yield RawDocument("\n\n".join(parts), member.name)


def _facts(tree: Any, name: str = "") -> Iterator[str]:
    """A line per text of a tree, under the name of the nearest key that is not `text`."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _facts(value, name if key == "text" else key)
    elif tree is not None and str(tree).strip():
        yield f"{name}: {str(tree).strip()}" if name else str(tree).strip()
