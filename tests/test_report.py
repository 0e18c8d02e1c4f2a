"""The report: whole in itself, every run and table on it, texts escaped, written at once, and sorted in a browser."""

import base64
import json
import re
import shutil
import subprocess
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import pytest

from dataeff import figures, report, tables
from dataeff.errors import DataeffError
from dataeff.files import read_json, write_json
from dataeff.study.base import FamilyName
from dataeff.study.specs import GridSpec
from dataeff.tables.table import format_cell, read_table
from tests.result_factory import (
    COMMIT,
    DOMAINS,
    MACHINE,
    SOFTWARE,
    both_families,
    grid_spec,
    only,
    write_results,
)

ABOUT = 'every <b>sample</b> & "all" of it'
VOID = {"meta", "link", "img", "br"}
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CHROMIUM_OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--no-first-run",
    "--enable-logging=stderr",
    "--dump-dom",
]


class Inputs(NamedTuple):
    spec: GridSpec
    results: Path
    corpus: Path
    tokens: list[Path]
    tables: Path
    figures: Path

    @property
    def page(self) -> Path:
        return self.results / "report" / "index.html"

    def build(self) -> str:
        report.build(*self, self.page)
        return self.page.read_text(encoding="utf-8")


class Page(HTMLParser):
    """What a browser would see: elements with their attributes, the texts of table rows, and open elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.visible = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += data.strip()
        if not {"script", "style"} & set(self.open):
            self.visible += data

    def values(self, attribute: str) -> list[str]:
        return [found for _, attributes in self.elements if (found := attributes.get(attribute)) is not None]


def inputs_of(root: Path, seeds: tuple[int, ...], drawn: Path | None = None) -> Inputs:
    """Three variants at 100% data and two at 25%; with `drawn`, figures that another build has made."""
    every = grid_spec().variants["gpt"]
    variants = {name: every[name] for name in ("baseline", "cl_voc", "ltd")}
    variants["ltd"] = variants["ltd"].model_copy(update={"about": ABOUT})
    spec = grid_spec(seeds, variants)
    part = [run.model_copy(update={"data": Fraction(1, 4)}) for run in spec.runs if run.variant != "cl_voc"]
    spec = spec.model_copy(update={"runs": [*spec.runs, *part], "scale_about": "a <small> & quick one"})
    results, data, corpus = write_results(root, spec)
    folders = (results / "tables" / "core", results / "figures" / "core")
    tables.build(spec, results, folders[0], data)
    if drawn is None:
        figures.build(spec, results, data, folders[1])
    else:
        shutil.copytree(drawn, folders[1])
    return Inputs(spec, results, corpus, sorted(data.glob("bpe4k/tokens/*.json")), *folders)


def inputs_of_both(root: Path, drawn: Path | None, family: FamilyName | None = None) -> Inputs:
    """A grid of both families, or its part of one; with `drawn`, figures that another build has made."""
    spec = both_families() if family is None else only(both_families(), family)
    results, data, corpus = write_results(root, spec)
    folders = (results / "tables" / "core", results / "figures" / "core")
    tables.build(spec, results, folders[0], data)
    if drawn is None:
        figures.build(spec, results, data, folders[1])
    else:
        shutil.copytree(drawn, folders[1])
    return Inputs(spec, results, corpus, sorted(data.glob("bpe4k/tokens/*.json")), *folders)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return inputs_of(tmp_path_factory.mktemp("report"), (1234,))


@pytest.fixture(scope="module")
def text(inputs: Inputs) -> str:
    return inputs.build()


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_every_element_is_closed_and_ids_are_unique(page: Page) -> None:
    assert page.open == []
    ids = page.values("id")
    assert len(ids) == len(set(ids))


def test_the_page_loads_nothing_from_elsewhere(text: str, page: Page) -> None:
    images = [attributes["src"] or "" for tag, attributes in page.elements if tag == "img"]
    assert len(images) == 5
    assert page.values("src") == images
    assert all(source.startswith("data:image/png;base64,") for source in images)
    assert [attributes["href"] for tag, attributes in page.elements if tag == "link"] == ["data:,"]
    assert not [link for link in page.values("href") if re.match(r"(https?:)?//", link)]
    assert not page.values("srcset") + page.values("action") + page.values("background")
    styles = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    assert styles
    assert not re.search(r"@import|url\(", "".join(styles) + "".join(page.values("style")))
    assert not re.search(r"fetch\(|XMLHttpRequest|import\(|https?://", text)
    assert not {tag for tag, _ in page.elements} & {"iframe", "object", "embed", "base"}


def test_images_are_the_drawn_figures_with_their_captions(inputs: Inputs, text: str, page: Page) -> None:
    captions = json.loads((inputs.figures / "captions.json").read_text(encoding="utf-8"))
    images = [attributes for tag, attributes in page.elements if tag == "img"]
    figure_ids = [attributes.get("id") for tag, attributes in page.elements if tag == "figure"]
    assert figure_ids == list(captions)
    assert len(captions) == 5
    for image, (name, words) in zip(images, captions.items(), strict=True):
        data = base64.b64decode((image["src"] or "").partition(",")[2], validate=True)
        assert data == (inputs.figures / f"{name}.png").read_bytes()
        assert image["alt"] == f"{words['title']}. {words['caption']}"
        assert words["caption"] in page.visible


def test_every_run_is_named_and_all_links_exist(inputs: Inputs, page: Page) -> None:
    (runs,) = [rows for rows in page.tables if rows[0][0] == "run"]
    assert [row[0] for row in runs[1:]] == [run.name for run in inputs.spec.runs]
    ids, links = set(page.values("id")), page.values("href")
    for link in links:
        if link.startswith("#"):
            assert link[1:] in ids
        elif link != "data:,":
            assert not Path(link).is_absolute()
            assert (inputs.page.parent / link).is_file(), link
    for run in inputs.spec.runs:
        of_run = [link for link in links if f"/{run.name}/" in link or f"/{run.name}." in link]
        # spec, plan, metrics, log, held-out, and one a number of shots
        assert len(of_run) == 5 + len(inputs.spec.shots), run.name
    assert len([link for link in links if link.endswith(".pdf")]) == 5


def losses_of_runs(page: Page) -> str:
    """The heading of the losses in "what ran"."""
    (runs,) = [rows for rows in page.tables if rows[0][0] == "run"]
    return runs[0][5]


def test_losses_of_one_family_carry_its_unit(page: Page) -> None:
    assert losses_of_runs(page) == "held-out loss (nats/token)"
    assert "masked" not in page.visible
    assert "{family: gpt, variants: [baseline, my_variant]" in page.visible


def test_every_table_is_shown_cell_by_cell(inputs: Inputs, page: Page) -> None:
    shown = [rows for rows in page.tables if rows[0][0] not in ("source", "run", "domain")]
    for name in ("quality", "published", "heldout_by_domain", "tasks", "time"):
        table = read_table(inputs.tables, name)
        assert table.title in page.visible or name == "quality"
        for section in table.filled_sections():
            columns = [column for column in table.shown_in(section) if column.key != "family"]
            rows = shown.pop(0)
            assert rows[0] == [column.heading for column in columns]
            assert rows[1:] == [[format_cell(column, row) for column in columns] for row in table.rows_in(section)]
        for note in table.notes:
            assert note in page.visible
        assert table.headline in page.visible
    assert shown == []


def test_published_numbers_have_a_place_of_their_own(inputs: Inputs, page: Page, tmp_path: Path) -> None:
    assert "published" in page.values("id")
    assert "#published" in page.values("href")
    headings = [rows[0] for rows in page.tables]
    quality = headings.index([column.heading for column in read_table(inputs.tables, "quality").shown_in("cost")][1:])
    assert headings[quality + 1][3:5] == ["0-shot, published", "0-shot, ours"]
    shutil.copytree(inputs.tables, tmp_path / "tables")
    table = read_json(tmp_path / "tables" / "published.json")
    write_json(tmp_path / "tables" / "published.json", {**table, "rows": [], "headline": ""})
    without = Page(inputs._replace(tables=tmp_path / "tables").build())
    assert "published" not in without.values("id")
    assert "#published" not in without.values("href")
    assert table["title"] not in without.visible
    inputs.build()


def test_texts_are_escaped(text: str, page: Page) -> None:
    assert "<b>" not in text
    assert "<small>" not in text
    assert "<code>," not in text
    assert ABOUT in page.visible
    assert "a <small> & quick one" in page.visible.replace("A <small>", "a <small>")
    assert DOMAINS[3] in page.visible
    assert "A <test> processor" in page.visible


def test_tokens_are_shown_by_domain(page: Page) -> None:
    assert "Tokenizer “bpe4k”: 1,200,000 tokens to train on." in page.visible
    assert ["Wikipedia (en)", "80", "1,000,000", "83.3"] in [row for table in page.tables for row in table]


def test_one_seed_is_no_claim_and_three_are_not_warned_of(inputs: Inputs, page: Page, tmp_path: Path) -> None:
    assert "With 1 seed no difference below is a claim" in page.visible
    three = Page(inputs_of(tmp_path, (1, 2, 3), inputs.figures).build())
    assert "no difference below is a claim" not in three.visible
    assert "15 pretraining runs, 3 seeds (1, 2, 3)" in three.visible
    assert "±" in three.visible
    two = Page(inputs_of(tmp_path / "two", (1, 2), inputs.figures).build())
    assert "With 2 seeds no difference below is a claim" in two.visible


def test_equal_inputs_give_an_equal_page(inputs: Inputs, text: str) -> None:
    assert inputs.build() == text


def test_it_says_what_it_is_made_of(page: Page) -> None:
    for expected in (
        "1 seed (1234)",
        "their absolute numbers are not comparable",
        COMMIT,
        MACHINE.cpu,
        f"torch {SOFTWARE['torch']}",
        "CC-BY-SA-4.0",
        "DM Mathematics",
        "200 short, 30 duplicate",
        "--configfile my_study.yaml",
        *DOMAINS,
    ):
        assert expected in page.visible, expected


def test_what_differs_between_runs_is_all_listed(inputs: Inputs, tmp_path: Path) -> None:
    results = tmp_path / "tiny"
    shutil.copytree(inputs.results, results)
    path = results / "pretrain" / inputs.spec.runs[1].name / "run.json"
    write_json(path, {**read_json(path), "commit": "f" * 40, "software": {**SOFTWARE, "torch": "2.14.0"}})
    text = inputs._replace(results=results).build()
    for expected in (COMMIT, "f" * 40, "torch 2.13.0", "torch 2.14.0"):
        assert expected in text


@pytest.mark.parametrize("name", ["tables/tasks.json", "figures/pacing.png", "figures/captions.json", "corpus.json"])
def test_a_missing_part_is_named_and_the_page_stays(inputs: Inputs, text: str, tmp_path: Path, name: str) -> None:
    shutil.copytree(inputs.tables, tmp_path / "tables")
    shutil.copytree(inputs.figures, tmp_path / "figures")
    shutil.copy(inputs.corpus, tmp_path / "corpus.json")
    (tmp_path / name).unlink()
    with pytest.raises(DataeffError, match=re.escape(str(tmp_path / name))):
        inputs._replace(
            corpus=tmp_path / "corpus.json", tables=tmp_path / "tables", figures=tmp_path / "figures"
        ).build()
    assert inputs.page.read_text(encoding="utf-8") == text
    assert [path.name for path in inputs.page.parent.iterdir()] == ["index.html"]


def test_a_page_appears_whole_under_its_name(inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fills up while the page is written: no page, and nothing half-written beside it."""

    def full(path: Path, text: str, encoding: str) -> None:
        path.write_bytes(text[:1000].encode(encoding))
        raise OSError("No space left on device")

    out = tmp_path / "report" / "index.html"
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        report.build(*inputs, out)
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize("key", ["sources", "training"])
def test_a_data_card_without_a_key_is_named(inputs: Inputs, tmp_path: Path, key: str) -> None:
    card = json.loads(inputs.corpus.read_text())
    del card[key]
    (tmp_path / "corpus.json").write_text(json.dumps(card))
    with pytest.raises(DataeffError, match=rf"corpus\.json: no key '{key}'"):
        report.build(*inputs._replace(corpus=tmp_path / "corpus.json"), tmp_path / "page.html")


def browsed(text: str, script: str, folder: Path) -> tuple[Page, list[str]]:
    """The page as Chromium has it after the script, and the lines that it wrote to the console."""
    assert CHROMIUM is not None
    folder.mkdir()
    copy = folder / "page.html"
    copy.write_text(text.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    done = subprocess.run(
        [CHROMIUM, *CHROMIUM_OPTIONS, f"--user-data-dir={folder / 'profile'}", copy.as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    # The browser's own complaints (no message bus, no graphics) carry no CONSOLE.
    return Page(done.stdout), [line for line in done.stderr.splitlines() if "CONSOLE" in line]


PRESS = """
const press = (table, heading, times) => {
  const buttons = [...document.querySelectorAll("table")[table].querySelectorAll("th button")];
  for (let time = 0; time < times; time++) buttons.find((button) => button.textContent === heading).click();
};
"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, which is not installed")
def test_a_browser_sorts_the_tables_without_a_console_error(inputs: Inputs, text: str, tmp_path: Path) -> None:
    quality = read_table(inputs.tables, "quality")
    number = {section: index for index, section in enumerate(quality.sections)}
    (loss,) = [column.heading for column in quality.columns if column.key == "heldout_loss"]
    (ratio,) = [column.heading for column in quality.columns if column.key == "time_ratio"]
    script = PRESS + "".join(
        f"press({table}, {json.dumps(heading)}, {times});"
        for table, heading, times in (
            (number["heldout"], loss, 1),
            (number["averages"], "data", 1),
            (number["cost"], ratio, 2),
        )
    )
    seen, console = browsed(text, script, tmp_path / "sorted")
    assert console == []

    def order(section: str) -> list[tuple[str, str]]:
        return [(row[0], row[1]) for row in seen.tables[number[section]][1:]]

    rows = quality.rows
    by_loss = sorted(rows, key=lambda row: row["heldout_loss"])
    assert order("heldout") == [(row["variant"], row["data"]) for row in by_loss]
    assert [row["data"] for row in rows] == ["100%"] * 3 + ["25%"] * 2
    assert [data for _, data in order("averages")] == ["25%"] * 2 + ["100%"] * 3
    known = sorted((row for row in rows if row["time_ratio"] is not None), key=lambda row: -row["time_ratio"])
    absent = [row for row in rows if row["time_ratio"] is None]
    assert len(absent) == 2
    assert order("cost") == [(row["variant"], row["data"]) for row in [*known, *absent]]
    assert seen.values("aria-sort") == ["ascending", "ascending", "descending"]


def test_a_grid_of_both_families(inputs: Inputs, tmp_path: Path) -> None:
    both = inputs_of_both(tmp_path, inputs.figures)
    page = Page(both.build())
    assert page.open == []
    loss = page.tables[0]
    assert loss[0][:5] == ["family", "variant", "data", "seeds", "loss (nats)"]
    assert [row[:3] for row in loss[1:]] == [
        [row["family"], row["variant"], row["data"]] for row in read_table(both.tables, "quality").rows
    ]
    bits = loss[0].index("bits per byte")
    assert {row[0] for row in loss[1:] if row[bits] == "–"} == {"bert"}
    for family, variants in both.spec.variants.items():
        for name in {run.variant for run in both.spec.runs if run.family == family}:
            assert f"{family} {name}" in page.visible
            assert variants[name].about in page.visible
    for run in both.spec.runs:
        of_run = [link for link in page.values("href") if f"/{run.name}/" in link or f"/{run.name}." in link]
        assert len(of_run) == (7 if run.family == "gpt" else 5), run.name
        assert all((both.page.parent / link).is_file() for link in of_run)
    assert losses_of_runs(page) == "held-out loss (nats)"
    assert "Held-out loss: of GPT in nats/token and BERT in nats/masked token." in page.visible
    assert "GPT-3 of 1.3 billion parameters" in page.visible
    assert "BERT-large (336 million parameters)" in page.visible


def test_a_grid_of_masked_models_alone(tmp_path: Path) -> None:
    bert = inputs_of_both(tmp_path, None, "bert")
    page = Page(bert.build())
    assert page.tables[0][0][:4] == ["variant", "data", "seeds", "loss (nats/masked token)"]
    assert not [heading for rows in page.tables for heading in rows[0] if heading in ("bits per byte", "0-shot, ours")]
    assert losses_of_runs(page) == "held-out loss (nats/masked token)"
    assert "nats/token" not in page.visible
    assert "heldout_by_domain" in page.values("id")
    assert "{family: bert, variants: [baseline, my_variant]" in page.visible
    assert "\n  bert:\n    my_variant:" in page.visible
    assert "a masked model continues no text" in page.visible
    assert "1.3-billion-parameter" not in page.visible


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, which is not installed")
def test_a_browser_sorts_published_numbers_by_value_and_not_by_mark(inputs: Inputs, tmp_path: Path) -> None:
    both = inputs_of_both(tmp_path / "both", inputs.figures)
    before = Page(both.build())
    (number,) = [
        index for index, rows in enumerate(before.tables) if rows[0][3:] == ["GLUE average (%)", "hours on 64 V100"]
    ]
    page, console = browsed(both.build(), PRESS + f'press({number}, "GLUE average (%)", 1);', tmp_path / "sorted")
    assert console == []
    found = [row[3] for row in page.tables[number][1:]]
    assert found == ["86.61†", "87.29", "87.44†", "87.48", "88.17†"]
    assert [row[3] for row in before.tables[number][1:]] != found


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, which is not installed")
def test_the_browser_test_would_see_a_console_error(text: str, tmp_path: Path) -> None:
    _, console = browsed(text, "undefined_function();", tmp_path / "error")
    assert any("undefined_function is not defined" in line for line in console)
