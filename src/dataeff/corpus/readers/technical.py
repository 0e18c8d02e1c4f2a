"""Records of registries: MEDLINE's abstracts, the catalogue of software weaknesses, and licences."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterable, Iterator
from typing import IO, cast
from xml.etree.ElementTree import Element

from dataeff.corpus.archive import Member
from dataeff.corpus.readers.base import RawDocument, elements, plain


def read_pubmed_xml(members: Iterable[Member]) -> Iterator[RawDocument]:
    """A MEDLINE citation set (.xml or .xml.gz) to a document per abstract: title, then its sections."""
    for member in members:
        packed = member.name.endswith(".gz")
        stream = cast(IO[bytes], gzip.GzipFile(fileobj=member.stream)) if packed else member.stream
        for article in elements(stream, "MedlineCitation"):
            abstract = article.find("Article/Abstract")
            if abstract is not None:
                sections = [_section(part) for part in abstract.findall("AbstractText")]
                # MEDLINE writes translated titles in brackets: [Title of a paper in German].
                title = re.sub(r"^\[(.*?)\](\.?)$", r"\1\2", plain(article.find("Article/ArticleTitle")))
                yield RawDocument("\n".join([title, *filter(None, sections)]), article.findtext("PMID", ""))


def _section(part: Element) -> str:
    label, text = part.get("Label", ""), plain(part)
    return f"{label}: {text}" if text and label not in ("", "UNLABELLED") else text


LONG_LINE_CHARACTERS = 50

# The parts of a weakness that are prose, and the lists of items with prose or code, under a heading each.
_TEXTS = ("Description", "Extended_Description")
_LISTS = {
    "Background_Details": "Background",
    "Common_Consequences": "Consequences",
    "Detection_Methods": "Detection",
    "Potential_Mitigations": "Mitigation",
    "Demonstrative_Examples": "Examples",
    "Observed_Examples": "Observed",
    "Notes": "Notes",
}
_LABELS = {"Effectiveness", "Impact", "Likelihood", "Link", "Phase", "Scope", "Strategy"}
_BLOCKS = {"p", "li", "div", "Intro_Text", "Body_Text", "Example_Code", "Note", "Description", "Method"}


def read_cwe_xml(members: Iterable[Member]) -> Iterator[RawDocument]:
    """MITRE's catalogue of weaknesses to a document each: name, what it is, examples with code, remedies.

    The same advice and examples stand under hundreds of them; each is kept where it stands first.
    """
    for member in members:
        seen: set[str] = set()
        for weakness in elements(member.stream, "Weakness"):
            if weakness.get("Status") == "Deprecated":
                continue
            parts = [f"CWE-{weakness.get('ID')}: {weakness.get('Name')}"]
            parts += [_lines_of(part) for name in _TEXTS for part in weakness.findall(name)]
            for name, heading in _LISTS.items():
                items = {_lines_of(item): None for part in weakness.findall(name) for item in part}
                new = [item for item in items if item and item not in seen]
                seen.update(new)
                if new:
                    parts.append("\n".join([heading, *new]))
            yield RawDocument("\n\n".join(filter(None, parts)), weakness.get("ID", ""))


def _lines_of(part: Element) -> str:
    """A part's text, a line per paragraph, item or line of code; code keeps its indentation."""
    lines = [""]
    _write(part, lines, "")
    return "\n".join(line.rstrip() for line in lines if line.strip(" -"))


def _write(element: Element, lines: list[str], indent: str) -> None:
    tag = element.tag.rpartition("}")[2]
    if tag in _LABELS:
        return
    if tag == "div" and "margin-left" in element.get("style", ""):
        indent += "    "
    inside = indent + "- " if tag == "li" else indent
    if tag in _BLOCKS or tag == "br":
        lines.append(inside)
    _add(element.text, lines)
    for child in element:
        _write(child, lines, indent)
        # What follows a block belongs to a line of its own.
        if child.tag.rpartition("}")[2] in _BLOCKS:
            lines.append(indent)
        _add(child.tail, lines)


def _add(text: str | None, lines: list[str]) -> None:
    words = " ".join((text or "").split())
    if words:
        gap = " " if lines[-1].strip(" -") and not words.startswith((",", ".", ";", ")")) else ""
        lines[-1] += gap + words


def read_licences(members: Iterable[Member]) -> Iterator[RawDocument]:
    """SPDX's JSON of a licence to its text alone, unless most of its long lines stand in one that came before.

    Versions and variants of a licence differ in a few lines.
    """
    seen: set[str] = set()
    for member in members:
        text = json.load(member.stream)["licenseText"]
        lines = {line.strip() for line in text.splitlines() if len(line.strip()) >= LONG_LINE_CHARACTERS}
        if not lines or 2 * len(lines & seen) <= len(lines):
            yield RawDocument(text, member.name)
        seen |= lines
