"""What a reader makes of open files: raw documents, as a stream; and the tools that several readers share.

A raw document carries a `block`: documents of a block are neighbours in one work (passages of a book, chapters),
chosen and held out together. Otherwise the passages around a held-out one would be trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import IO
from xml.etree.ElementTree import Element, iterparse

from dataeff.corpus.archive import Member


@dataclass(frozen=True, slots=True)
class RawDocument:
    """Text, or bytes that are not known to be UTF-8; `domain` only where the file itself names it."""

    text: str | bytes
    block: str
    domain: str | None = None


Reader = Callable[[Iterable[Member]], Iterator[RawDocument]]


def elements(stream: IO[bytes], tag: str) -> Iterator[Element]:
    """Each element of a tag, once it is complete; what was read before is let go: memory stays flat.

    Names come without their namespace, which differs from one version of a format to the next.
    """
    events = iterparse(stream, events=("start", "end"))
    _, root = next(events)
    for event, element in events:
        element.tag = element.tag.rpartition("}")[2]
        if event == "end" and element.tag == tag:
            yield element
            root.clear()


def plain(element: Element | None) -> str:
    """The text of an element and all below it, on one line."""
    return "" if element is None else " ".join("".join(element.itertext()).split())
