"""Each reader on a small made-up file of its form, through archives where the form comes in one."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataeff.corpus.archive import Member, matches, members
from dataeff.corpus.readers import PASSAGE_CHARACTERS, READERS, find_reader, passages
from dataeff.errors import DataeffError


def read(reader: str, data: bytes, name: str = "file") -> list[str | bytes]:
    return [raw.text for raw in READERS[reader](iter([Member(name, io.BytesIO(data))]))]


@pytest.mark.parametrize("suffix", [".whl", ".tar.gz", ".tgz"])
def test_members_of_archives(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"package{suffix}"
    files = {"p/a.txt": b"A", "p/sub/b.txt": b"B", "p/c.py": b"C", "p/sub/skip.txt": b"S"}
    if suffix == ".whl":
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    else:
        with tarfile.open(path, "w:gz") as archive:
            for name, data in files.items():
                information = tarfile.TarInfo(name)
                information.size = len(data)
                archive.addfile(information, io.BytesIO(data))
    found = {member.name: member.stream.read() for member in members(path, ["p/*.txt", "!*/skip.txt"])}
    assert found == {"p/a.txt": b"A", "p/sub/b.txt": b"B"}
    with pytest.raises(DataeffError, match=r"no file in it matches members: \['\*\.rst'\]"):
        list(members(path, ["*.rst"]))


def test_globs() -> None:
    assert matches("a/b.txt", [])
    assert matches("a/b.txt", ["!*.py"])
    assert not matches("a/b.py", ["!*.py"])
    assert not matches("a/b.py", ["*.txt"])


def test_unknown_reader_suggests_the_nearest() -> None:
    with pytest.raises(DataeffError, match=r"sources\.mine\.reader: unknown reader 'jsonll'; did you mean 'jsonl'"):
        find_reader("jsonll", "sources.mine.reader")


BOOKS = """The Project Gutenberg EBook of One

*** START OF THE PROJECT GUTENBERG EBOOK, ONE ***

Produced by Somebody at http://www.pgdp.net

First text.

More of it.

*** END OF THE PROJECT GUTENBERG EBOOK, ONE ***

A licence about Project Gutenberg.

*** START OF THIS PROJECT GUTENBERG EBOOK TWO ***

Second text.

End of the Project Gutenberg EBook of Two
*** END OF THIS PROJECT GUTENBERG EBOOK TWO ***

word list
"""


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_gutenberg_keeps_the_books_only(newline: str) -> None:
    assert read("gutenberg", BOOKS.replace("\n", newline).encode()) == [
        "First text.\n\nMore of it.",
        "Second text.",
    ]


def test_gutenberg_passes_other_encodings_on_for_counting() -> None:
    assert read("gutenberg", b"caf\xe9") == [b"caf\xe9"]


@given(st.lists(st.text("abc \n", min_size=1, max_size=4_000), max_size=30))
def test_passages_lose_no_paragraph_and_keep_the_size(paragraphs: list[str]) -> None:
    text = "\n\n".join(paragraphs)
    cut = list(passages(text))
    assert "".join("".join(cut).split()) == "".join(text.split())
    for passage in cut:
        # Joining adds two newlines between paragraphs, which the limit leaves out of account.
        assert len(passage.replace("\n", "")) <= PASSAGE_CHARACTERS or "\n\n" not in passage


def test_neighbouring_passages_share_a_block() -> None:
    text = "\n\n".join(f"{number} " + "x" * 4_000 for number in range(9))
    raws = list(READERS["gutenberg"](iter([Member("book", io.BytesIO(text.encode()))])))
    assert [raw.block for raw in raws] == ["book:0:0"] * 4 + ["book:0:1"] * 4 + ["book:0:2"]


def test_verses_become_chapters() -> None:
    verses = [
        ("Genesis", 1, "In the beginning"),
        ("Genesis", 1, "[]"),
        ("Genesis", 2, "Thus"),
        ("Exodus", 2, "And"),
    ]
    lines = [json.dumps({"book": book, "chapter": chapter, "text": text}) for book, chapter, text in verses]
    assert read("verses", "\n".join(lines).encode()) == [
        "Genesis 1\n\nIn the beginning",
        "Genesis 2\n\nThus",
        "Exodus 2\n\nAnd",
    ]


def test_wiki_summaries_close_the_gaps() -> None:
    page = {"title": "Cat", "extract": "The cat (, ; Felis) is  small () .\nIt purrs ."}
    assert read("wiki_summaries", json.dumps({"Cat": page}).encode()) == [
        "Cat\n\nThe cat (Felis) is small.\n\nIt purrs."
    ]


PUBMED = """<?xml version="1.0"?><PubmedArticleSet>
<PubmedArticle><MedlineCitation><PMID>1</PMID><Article><ArticleTitle>[On H<sub>2</sub>O.]</ArticleTitle>
<Abstract><AbstractText Label="AIM">To   see
 it.</AbstractText><AbstractText Label="UNLABELLED">Seen.</AbstractText>
<CopyrightInformation>(c)</CopyrightInformation></Abstract></Article></MedlineCitation></PubmedArticle>
<PubmedArticle><MedlineCitation><PMID>2</PMID><Article><ArticleTitle>No abstract</ArticleTitle></Article>
</MedlineCitation></PubmedArticle></PubmedArticleSet>"""


def test_pubmed_title_and_sections() -> None:
    expected = ["On H2O.\nAIM: To see it.\nSeen."]
    assert read("pubmed_xml", PUBMED.encode(), "a.xml") == expected
    assert read("pubmed_xml", gzip.compress(PUBMED.encode()), "a.xml.gz") == expected
