"""Each reader on a small made-up file of its form, through archives where the form comes in one."""

from __future__ import annotations

import bz2
import gzip
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataeff.corpus.archive import Member
from dataeff.corpus.readers import PASSAGE_CHARACTERS, READERS, find_reader, passages
from dataeff.errors import DataeffError


def read(reader: str, data: bytes, name: str = "file") -> list[str | bytes]:
    return [raw.text for raw in READERS[reader](iter([Member(name, io.BytesIO(data))]))]


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


WIKI = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/">
<siteinfo><sitename>W</sitename></siteinfo>
<page><title>Cat</title><ns>0</ns><revision><text>A '''cat''' <!-- hidden -->purrs.</text></revision></page>
<page><title>Puss</title><ns>0</ns><redirect title="Cat" /><revision><text>#REDIRECT [[Cat]]</text></revision></page>
<page><title>Old</title><ns>0</ns><revision><text> #redirect [[Cat]]</text></revision></page>
<page><title>Talk:Cat</title><ns>1</ns><revision><text>I like cats.</text></revision></page>
<page><title>Empty</title><ns>0</ns><revision><text /></revision></page>
</mediawiki>"""


def test_wiki_markup_is_articles_only() -> None:
    expected = ["Cat\n\nA '''cat''' purrs.", "Empty\n\n"]
    assert read("wiki_markup", WIKI.encode(), "w.xml") == expected
    assert read("wiki_markup", bz2.compress(WIKI.encode()), "w.xml.bz2") == expected


CWE = """<Weakness_Catalog xmlns="http://cwe.mitre.org/cwe-7" xmlns:xhtml="http://www.w3.org/1999/xhtml"><Weaknesses>
<Weakness ID="1" Name="First" Status="Stable"><Description>It  is
 bad.</Description>
<Extended_Description><xhtml:p>Why:</xhtml:p><xhtml:ul><xhtml:li>One <xhtml:b>reason</xhtml:b>.</xhtml:li></xhtml:ul>
</Extended_Description>
<Common_Consequences><Consequence><Scope>Integrity</Scope><Note>Harm.</Note></Consequence></Common_Consequences>
<Demonstrative_Examples><Demonstrative_Example><Intro_Text>See:</Intro_Text><Example_Code Nature="Bad">
<xhtml:div>if (x) {<xhtml:br/><xhtml:div style="margin-left:1em;">run(x);<xhtml:br/>stop();</xhtml:div>}</xhtml:div>
</Example_Code></Demonstrative_Example></Demonstrative_Examples>
<Content_History><Submission><Submission_Name>Me</Submission_Name></Submission></Content_History></Weakness>
<Weakness ID="2" Name="Second" Status="Draft"><Description>Worse.</Description>
<Common_Consequences><Consequence><Note>Harm.</Note></Consequence></Common_Consequences></Weakness>
<Weakness ID="3" Name="DEPRECATED: Third" Status="Deprecated"><Description>See 1.</Description></Weakness>
</Weaknesses></Weakness_Catalog>"""


def test_cwe_keeps_prose_and_code_and_repeats_nothing() -> None:
    first, second = read("cwe_xml", CWE.encode())
    assert first == (
        "CWE-1: First\n\nIt is bad.\n\nWhy:\n- One reason.\n\nConsequences\nHarm.\n\n"
        "Examples\nSee:\nif (x) {\n    run(x);\n    stop();\n}"
    )
    assert second == "CWE-2: Second\n\nWorse."


def test_reviews_of_the_evaluation_data_stay_out() -> None:
    table = 'text,label,source\n"Good, ""really"".<br /><br />Yes.",1,imdb\nA sentence .,0,rt\n'
    assert read("imdb_reviews", table.encode()) == ['Good, "really".\n\nYes.']


LETTER = """From a@b Thu Aug 22 14:54:40 2002
Received: from x
Subject: Hello there
MIME-Version: 1.0
Content-Type: {type}

{body}
"""


@pytest.mark.parametrize("end", ["-- \nMe", "_" * 47 + "\nA mailing list", "-" * 55 + "\nA sponsor"])
def test_emails_keep_subject_and_text(end: str) -> None:
    letter = LETTER.format(type="text/plain; charset=utf-8", body=f"How are you?\n\n- one\n{end}")
    assert read("emails", letter.encode()) == ["Hello there\n\nHow are you?\n\n- one\n"]
    assert read("emails", LETTER.format(type="text/html", body="<p>Buy</p>").encode()) == [""]


def test_factbook_names_its_facts() -> None:
    country = {
        "Geography": {"Area": {"total": {"text": "5 sq km"}, "note": None}, "Climate": {"text": " mild "}},
        "X": {},
    }
    assert read("factbook", json.dumps(country).encode()) == ["Geography\ntotal: 5 sq km\nClimate: mild"]


def test_licences_that_are_variants_of_one_are_kept_once() -> None:
    lines = [f"Line {number} of a licence that is long enough to be told apart from others." for number in range(10)]
    texts = ["\n".join(lines), "\n".join([*lines[1:], "but changed"]), "\n".join(lines[:3]) + "\nother" * 3, "short"]
    files = [
        Member(f"{n}.json", io.BytesIO(json.dumps({"licenseText": text}).encode())) for n, text in enumerate(texts)
    ]
    assert [raw.text for raw in READERS["licences"](iter(files))] == [texts[0], "short"]
