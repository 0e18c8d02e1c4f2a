"""The report page: whole in itself, every run on it, texts escaped, numbers as in the tables, errors that name files."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dataeff import figures, report, tables
from dataeff.errors import DataeffError
from dataeff.files import read_json, write_json
from dataeff.study.specs import GridSpec
from dataeff.study.types import MetricCurriculum, Pacing, Variant
from dataeff.tables.table import format_cell, read_table
from tests.result_factory import COMMIT, DOMAINS, MACHINE, SOFTWARE, grid_spec, write_results

VARIANTS = {
    "baseline": Variant(about="every sample in full"),
    "easy_first": Variant(
        about="easy samples <first> & hard ones later",
        curriculum={"vocab_rarity": MetricCurriculum(apply="select", pacing=Pacing(start="1", end="100", over="0.5"))},
    ),
}


class Page(HTMLParser):
    """What a page loads, links to, names and says."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.texts: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = {key: value or "" for key, value in attributes}
        self.tags.append(tag)
        self.ids |= {found["id"]} if "id" in found else set()
        if tag == "a":
            self.links.append(found["href"])
        else:
            self.loads += [found[key] for key in ("src", "href", "srcset", "data", "poster") if key in found]

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


class Built:
    """A page and the folders it was made from."""

    def __init__(self, root: Path, spec: GridSpec) -> None:
        self.spec = spec
        self.results, data, self.card = write_results(root, spec)
        self.tables, self.figures = (self.results / stage / spec.grid for stage in ("tables", "figures"))
        self.out = self.results / "report" / "index.html"
        tables.build(spec, self.results, self.tables, data.parent)
        figures.build(spec, self.results, data, self.figures)
        self.make()

    def make(self) -> None:
        report.build(self.spec, self.results, self.card, self.tables, self.figures, self.out)

    @property
    def text(self) -> str:
        return self.out.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return Built(tmp_path_factory.mktemp("report"), grid_spec((1234,), VARIANTS))


def test_nothing_outside_the_page_is_loaded(page: Built) -> None:
    found = Page(page.text)
    assert found.loads
    assert all(address.startswith("data:") for address in found.loads)
    assert "http://" not in page.text
    assert "https://" not in page.text
    assert "@import" not in page.text
    assert "url(" not in page.text
    assert not {"iframe", "object", "embed"} & set(found.tags)


def test_each_run_is_there_with_links_to_its_files(page: Built) -> None:
    found = Page(page.text)
    for run in page.spec.runs:
        assert run.name in found.texts
        links = [link for link in found.links if run.name in link]
        assert f"../pretrain/{run.name}/metrics.jsonl" in links
        assert f"../specs/pretrain/{run.name}.yaml" in links
        for link in links:
            if "/specs/" not in link and "/logs/" not in link:  # written by snakemake, not by these stages
                assert (page.out.parent / link).is_file(), link


def test_links_within_the_page_and_to_figures_lead_somewhere(page: Built) -> None:
    found = Page(page.text)
    inner = [link[1:] for link in found.links if link.startswith("#")]
    assert inner
    assert set(inner) <= found.ids
    prints = [link for link in found.links if link.endswith(".pdf")]
    assert len(prints) == len(read_json(page.figures / figures.CAPTIONS))
    assert all((page.out.parent / link).is_file() for link in prints)


def test_texts_are_escaped(page: Built) -> None:
    assert "<first>" not in page.text
    assert "<code>" + " & " not in page.text
    assert "GitHub &amp; &lt;code&gt;" in page.text
    assert "first" not in Page(page.text).tags
    texts = Page(page.text).texts
    assert "easy samples <first> & hard ones later" in texts
    assert any("A <test> processor" in text for text in texts)


def test_tables_show_the_cells_of_the_tables_stage(page: Built) -> None:
    texts = Page(page.text).texts
    for name in report.TABLES:
        table = read_table(page.tables, name)
        for row in table.rows:
            for section in table.sections:
                for column in table.shown_in(section):
                    assert column.key == "family" or format_cell(column, row) in texts, (name, column.key)


def test_it_says_what_it_is_made_of(page: Built) -> None:
    text = " ".join(Page(page.text).texts)
    for expected in (
        page.spec.scale_about[1:],
        "1 seed (1234)",
        "no difference below is a claim",
        "their absolute numbers are not comparable",
        COMMIT,
        MACHINE.cpu,
        f"torch {SOFTWARE['torch']}",
        "CC-BY-SA-4.0",
        "DM Mathematics",
        "200 short, 30 duplicate",
        "--configfile my_study.yaml",
    ):
        assert expected in text, expected
    for domain in DOMAINS:
        assert domain in text


def test_three_seeds_make_no_excuse(tmp_path: Path) -> None:
    text = " ".join(Page(Built(tmp_path, grid_spec((1, 2, 3), VARIANTS)).text).texts)
    assert "3 seeds (1, 2, 3)" in text
    assert "no difference below is a claim" not in text
    assert " ± " in text


def test_two_builds_are_equal(page: Built) -> None:
    first = page.out.read_bytes()
    page.make()
    assert page.out.read_bytes() == first


def test_what_differs_between_runs_is_all_listed(tmp_path: Path) -> None:
    built = Built(tmp_path, grid_spec((1234,), VARIANTS))
    path = built.results / "pretrain" / built.spec.runs[1].name / "run.json"
    write_json(path, {**read_json(path), "commit": "f" * 40, "software": {**SOFTWARE, "torch": "2.14.0"}})
    built.make()
    for expected in (COMMIT, "f" * 40, "torch 2.13.0", "torch 2.14.0"):
        assert expected in built.text


@pytest.mark.parametrize(
    "name", ["tables/core/tasks.json", "figures/core/pacing.png", "figures/core/captions.json", "card"]
)
def test_a_missing_part_is_named_and_the_old_page_stays(tmp_path: Path, name: str) -> None:
    built = Built(tmp_path, grid_spec((1234,), VARIANTS))
    missing = built.card if name == "card" else built.results / name
    missing.unlink()
    before = built.out.read_bytes()
    with pytest.raises(DataeffError, match=re.escape(str(missing))):
        built.make()
    assert built.out.read_bytes() == before


def test_a_card_of_another_form_is_named(page: Built, tmp_path: Path) -> None:
    card = read_json(page.card)
    del card["sources"]["source_0"]["licence"]
    write_json(tmp_path / "corpus.json", card)
    with pytest.raises(DataeffError, match="no key 'licence'"):
        report.build(page.spec, page.results, tmp_path / "corpus.json", page.tables, page.figures, tmp_path / "p.html")
