"""One function per form of source: open files in, raw documents out, as a stream.

A reader knows where texts begin and end in its form and what in it is not text (markup, licence pages); it
leaves cleaning to clean.py. A new form is a function in one of these modules and its name in READERS.
"""

from __future__ import annotations

from typing import Any

from dataeff.corpus.readers.base import RawDocument, Reader
from dataeff.corpus.readers.books import PASSAGE_CHARACTERS, passages, read_gutenberg, read_verses
from dataeff.corpus.readers.encyclopaedia import read_factbook, read_wiki_markup, read_wiki_summaries
from dataeff.corpus.readers.plain import read_emails, read_imdb_reviews, read_jsonl, read_pile, read_text
from dataeff.corpus.readers.technical import read_cwe_xml, read_licences, read_pubmed_xml
from dataeff.errors import DataeffError, unknown_name

READERS: dict[str, Reader] = {
    "cwe_xml": read_cwe_xml,
    "emails": read_emails,
    "factbook": read_factbook,
    "gutenberg": read_gutenberg,
    "imdb_reviews": read_imdb_reviews,
    "jsonl": read_jsonl,
    "licences": read_licences,
    "pile": read_pile,
    "pubmed_xml": read_pubmed_xml,
    "text": read_text,
    "verses": read_verses,
    "wiki_markup": read_wiki_markup,
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


__all__ = [
    "PASSAGE_CHARACTERS",
    "READERS",
    "RawDocument",
    "Reader",
    "find_reader",
    "passages",
    "unreadable",
]
