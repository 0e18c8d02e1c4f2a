"""The page: whole in itself, claims first, every run and table on it, texts escaped, written at once."""

import base64
import json
import re
import shutil
from pathlib import Path

import pytest

from dataeff import report
from dataeff.claims import read_claims
from dataeff.errors import DataeffError
from dataeff.files import read_json, write_json
from dataeff.tables.table import format_cell, read_table
from tests.report.pages import ABOUT, Inputs, Page, grid_of_both, small_grid
from tests.result_factory import COMMIT, DOMAINS, MACHINE, SOFTWARE


def test_every_element_is_closed_and_ids_are_unique(page: Page) -> None:
    assert page.open == []
    ids = page.values("id")
    assert len(ids) == len(set(ids))


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


def test_the_page_loads_nothing_from_elsewhere(text: str, page: Page, inputs: Inputs) -> None:
    images = [attributes["src"] or "" for tag, attributes in page.elements if tag == "img"]
    assert len(images) == len(read_json(inputs.figures / "captions.json"))
    assert page.values("src") == images
    assert all(source.startswith("data:image/png;base64,") for source in images)
    assert [attributes["href"] for tag, attributes in page.elements if tag == "link"] == ["data:,"]
    assert not [link for link in page.values("href") if re.match(r"(https?:)?//", link)]
    assert not page.values("srcset") + page.values("action") + page.values("background")
    styles = "".join(re.findall(r"<style>(.*?)</style>", text, re.DOTALL))
    assert styles
    assert not re.search(r"@import|url\(", styles + "".join(page.values("style")))
    assert not re.search(r"fetch\(|XMLHttpRequest|\bimport\(|sourceMappingURL", text)
    assert not {tag for tag, _ in page.elements} & {"iframe", "object", "embed", "base"}


def test_the_library_is_inside_with_its_licence(text: str) -> None:
    assert "The MIT License (MIT)" in text
    assert "Copyright (c) 2014-2024 Chart.js Contributors" in text
    assert re.search(r"Chart\.js v4\.\d+\.\d+", text)


def test_images_are_the_drawn_figures_with_their_captions(inputs: Inputs, page: Page) -> None:
    captions = read_json(inputs.figures / "captions.json")
    shown = [attributes.get("id") for tag, attributes in page.elements if tag == "figure"]
    images = [attributes for tag, attributes in page.elements if tag == "img"]
    # The main one stands first; the rest follow in the order in which they were drawn.
    assert shown[1:] == [name for name in captions if name != shown[0]]
    for image, name in zip(images, shown, strict=True):
        assert name is not None
        data = base64.b64decode((image["src"] or "").partition(",")[2], validate=True)
        assert data == (inputs.figures / f"{name}.png").read_bytes()
        assert image["alt"] == f"{captions[name]['title']}. {captions[name]['caption']}"
        assert captions[name]["caption"] in page.visible


def test_claims_come_first_and_lead_to_their_runs(three_seeds: Inputs) -> None:
    text = three_seeds.page.read_text(encoding="utf-8")
    page, claims = Page(text), read_claims(three_seeds.tables).claims
    headlines = [claim for claim in claims if claim.headline]
    assert headlines
    assert len(claims) > 5
    first = [name.removeprefix("headline-") for name in page.values("id") if name.startswith("headline-")]
    assert first == [claim.key for claim in headlines]
    assert text.index('id="claims"') < text.index("<figure") < text.index('id="results"')
    shown = page.table("Claims")
    assert [row[1].split(" ", 1)[1] for row in shown.rows] == [claim.verdict for claim in claims]
    for row, claim in zip(shown.rows, claims, strict=True):
        assert claim.text in row[2]
        assert row[3] == claim.reason
        assert row[4] == str(claim.seeds)
        assert f"claim-{claim.key}" in page.values("id")
    named = {link.removeprefix("#run-") for link in page.values("href") if link.startswith("#run-")}
    assert {name for claim in claims for name in claim.runs} <= named


def test_the_claims_lie_beside_the_page_as_json(three_seeds: Inputs) -> None:
    beside = three_seeds.page.with_name("index.claims.json")
    assert beside.read_bytes() == (three_seeds.tables / "claims.json").read_bytes()
    assert "index.claims.json" in Page(three_seeds.page.read_text(encoding="utf-8")).values("href")


def test_a_claim_on_a_run_that_the_grid_lacks_is_refused(inputs: Inputs, tmp_path: Path) -> None:
    shutil.copytree(inputs.tables, tmp_path / "tables")
    claims = read_json(inputs.tables / "claims.json")
    claims["claims"][0]["runs"] = ["gpt-nobody-100-s1"]
    write_json(tmp_path / "tables" / "claims.json", claims)
    with pytest.raises(DataeffError, match=r"names the run 'gpt-nobody-100-s1', which the grid does not have"):
        report.build(*inputs._replace(tables=tmp_path / "tables"), tmp_path / "page.html")
    assert not list(tmp_path.glob("page*"))


def test_every_run_is_named_and_all_links_exist(inputs: Inputs, page: Page) -> None:
    runs = page.table("What ran").rows
    assert [row[0] for row in runs] == [run.name for run in inputs.spec.runs]
    ids, links = set(page.values("id")), page.values("href")
    for link in links:
        if link.startswith("#"):
            assert link[1:] in ids, link
        elif link != "data:,":
            assert not Path(link).is_absolute()
            assert (inputs.page.parent / link).is_file(), link
    for run in inputs.spec.runs:
        of_run = [link for link in links if f"/{run.name}/" in link or f"/{run.name}." in link]
        # spec, plan, run, timings, metrics, log, held-out, and one a number of shots
        assert len(of_run) == 7 + len(inputs.spec.shots), run.name
    for name in read_json(inputs.figures / "captions.json"):
        assert [link for link in links if link.endswith(f"/{name}.pdf")]


def test_a_file_that_was_not_kept_is_named_without_a_link(inputs: Inputs, tmp_path: Path) -> None:
    results = tmp_path / "tiny"
    shutil.copytree(inputs.results, results)
    shutil.rmtree(results / "logs")
    page = Page(inputs._replace(results=results).build())
    assert not [link for link in page.values("href") if "/logs/" in link]
    assert page.values("title").count("not kept in this folder") == len(inputs.spec.runs)


def test_numbers_lead_to_the_runs_behind_them(inputs: Inputs, page: Page) -> None:
    quality = read_table(inputs.tables, "quality")
    shown = [table for table in page.tables if table.label.startswith(f"{quality.title}: ")]
    assert len(shown) == len(quality.filled_sections())
    assert {table.headings[-1] for table in shown} == {"runs"}
    assert {row[-1] for table in shown for row in table.rows} == {"1234"}


def test_every_table_is_shown_cell_by_cell(inputs: Inputs, page: Page) -> None:
    listed = [Path(name).stem for name in read_json(inputs.tables / "manifest.json")["files"] if name.endswith(".json")]
    names = [name for name in listed if name != "claims"]
    assert {"quality", "saving", "published", "heldout_by_domain", "tasks", "time"} <= set(names)
    for name in names:
        table = read_table(inputs.tables, name)
        for section, title in table.filled_sections().items():
            shown = page.table(f"{table.title}: {title}")
            columns = [column for column in table.shown_in(section) if column.key != "family"]
            count = len(columns)
            assert shown.headings[:count] == [column.heading for column in columns], name
            cells = [[format_cell(column, row) for column in columns] for row in table.rows_in(section)]
            assert [row[:count] for row in shown.rows] == cells, name
        for text in [table.headline, *table.notes]:
            assert text in page.visible


def test_published_numbers_have_a_place_of_their_own(inputs: Inputs, page: Page, tmp_path: Path) -> None:
    assert "published" in page.values("id")
    assert "#published" in page.values("href")
    shutil.copytree(inputs.tables, tmp_path / "tables")
    table = read_json(tmp_path / "tables" / "published.json")
    write_json(tmp_path / "tables" / "published.json", {**table, "rows": [], "headline": ""})
    report.build(*inputs._replace(tables=tmp_path / "tables"), tmp_path / "page.html")
    without = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "published" not in without.values("id")
    assert "#published" not in without.values("href")
    assert table["title"] not in without.visible


def test_texts_are_escaped(text: str, page: Page) -> None:
    body = text[: text.index('<script type="application/json"')]
    assert "<b>" not in body
    assert "<small>" not in body
    assert "<code>," not in body
    assert ABOUT in page.visible
    assert "a <small> & quick one" in page.visible.replace("A <small>", "a <small>")
    assert DOMAINS[3] in page.visible
    assert "A <test> processor" in page.visible


def test_tokens_are_shown_by_domain(page: Page) -> None:
    assert "Tokenizer “bpe4k”: 1,200,000 tokens to train on." in page.visible
    assert ["Wikipedia (en)", "80", "1,000,000", "83.3"] in page.table("Tokens of bpe4k").rows


def test_one_seed_is_no_claim_and_three_are_not_warned_of(inputs: Inputs, page: Page, three_seeds: Inputs) -> None:
    assert "With 1 seed no difference below is a claim" in page.visible
    assert not [row for row in page.table("Claims").rows if not row[1].endswith("cannot be told")]
    three = Page(three_seeds.page.read_text(encoding="utf-8"))
    assert "no difference below is a claim" not in three.visible
    assert "15 pretraining runs, 3 seeds (1, 2, 3)" in three.visible
    assert "±" in three.visible


def test_two_seeds_are_no_claim(inputs: Inputs, tmp_path: Path) -> None:
    two = Page(small_grid(tmp_path, (1, 2), inputs.figures).build())
    assert "With 2 seeds no difference below is a claim" in two.visible


PARTS = ["tables/tasks.json", "tables/claims.json", "figures/pacing.png", "figures/captions.json", "corpus.json"]


@pytest.mark.parametrize("name", PARTS)
def test_a_missing_part_is_named_and_the_page_stays(inputs: Inputs, text: str, tmp_path: Path, name: str) -> None:
    shutil.copytree(inputs.tables, tmp_path / "tables")
    shutil.copytree(inputs.figures, tmp_path / "figures")
    shutil.copy(inputs.corpus, tmp_path / "corpus.json")
    (tmp_path / name).unlink()
    before = sorted(inputs.page.parent.iterdir())
    with pytest.raises(DataeffError, match=re.escape(str(tmp_path / name))):
        inputs._replace(
            corpus=tmp_path / "corpus.json", tables=tmp_path / "tables", figures=tmp_path / "figures"
        ).build()
    assert inputs.page.read_text(encoding="utf-8") == text
    assert sorted(inputs.page.parent.iterdir()) == before


def heading_of_losses(page: Page) -> str:
    return page.table("What ran").headings[5]


def test_losses_of_one_family_carry_its_unit(page: Page) -> None:
    assert heading_of_losses(page) == "held-out loss (nats/token)"
    assert "masked" not in page.visible
    assert "{family: gpt, variants: [baseline, my_variant]" in page.visible


def test_a_grid_of_both_families(inputs: Inputs, tmp_path: Path) -> None:
    both = grid_of_both(tmp_path, inputs.figures)
    page, quality = Page(both.build()), read_table(both.tables, "quality")
    assert page.open == []
    losses = next(table for table in page.tables if table.label.startswith(f"{quality.title}: "))
    assert losses.headings[:5] == ["family", "variant", "data", "seeds", "loss (nats)"]
    assert [row[:3] for row in losses.rows] == [[row["family"], row["variant"], row["data"]] for row in quality.rows]
    bits = losses.headings.index("bits per byte")
    assert {row[0] for row in losses.rows if row[bits] == "–"} == {"bert"}
    for family, variants in both.spec.variants.items():
        for name in {run.variant for run in both.spec.runs if run.family == family}:
            assert f"{family} {name}" in page.visible
            assert variants[name].about in page.visible
    for run in both.spec.runs:
        of_run = [link for link in page.values("href") if f"/{run.name}/" in link or f"/{run.name}." in link]
        assert len(of_run) == (9 if run.family == "gpt" else 7), run.name
        assert all((both.page.parent / link).is_file() for link in of_run)
    assert heading_of_losses(page) == "held-out loss (nats)"
    assert "Held-out loss: of GPT in nats/token and BERT in nats/masked token." in page.visible
    assert "GPT-3 of 1.3 billion parameters" in page.visible
    assert "BERT-large (336 million parameters)" in page.visible
    assert {row[0].split(".")[0] for row in page.table("Claims").rows} == {"GPT", "BERT"}


def test_a_grid_of_masked_models_alone(tmp_path: Path) -> None:
    bert = grid_of_both(tmp_path, None, "bert")
    page, quality = Page(bert.build()), read_table(bert.tables, "quality")
    losses = next(table for table in page.tables if table.label.startswith(f"{quality.title}: "))
    assert losses.headings[:4] == ["variant", "data", "seeds", "loss (nats/masked token)"]
    headings = {heading for table in page.tables for heading in table.headings}
    assert not {"bits per byte", "0-shot, ours"} & headings
    assert heading_of_losses(page) == "held-out loss (nats/masked token)"
    assert "nats/token" not in page.visible
    assert "heldout_by_domain" in page.values("id")
    assert "{family: bert, variants: [baseline, my_variant]" in page.visible
    assert "\n  bert:\n    my_variant:" in page.visible
    assert "a masked model continues no text" in page.visible
    assert "1.3-billion-parameter" not in page.visible


def test_the_pages_of_other_grids_are_linked(inputs: Inputs, text: str, tmp_path: Path) -> None:
    (tmp_path / "papers_gpt.html").write_text(text.replace('content="core"', 'content="papers_gpt"'), encoding="utf-8")
    (tmp_path / "notes.html").write_text("<p>of mine</p>", encoding="utf-8")
    out = tmp_path / "index.html"
    report.build(*inputs, out)
    page = Page(out.read_text(encoding="utf-8"))
    assert "papers_gpt.html" in page.values("href")
    assert "notes.html" not in page.values("href")


def luminance(colour: str) -> float:
    parts = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    red, green, blue = ((part + 0.055) ** 2.4 / 1.055**2.4 if part > 0.04045 else part / 12.92 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("look", [0, 1], ids=["light", "dark"])
def test_text_can_be_read_on_its_ground(text: str, look: int) -> None:
    found = re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", text)
    colours = {name: pair[look] for name, *pair in found}
    grounds = {name: ["page", "card"] for name in ("ink", "soft", "link")}
    grounds |= {name: [f"{name}-ground"] for name in ("yes", "no", "open")}
    grounds["ink"].append("mark")
    for name, behind in grounds.items():
        for ground in behind:
            high, low = sorted((luminance(colours[name]), luminance(colours[ground])), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 4.5, (name, ground)


def test_easy_and_hard_samples_are_shown_as_text(inputs: Inputs, page: Page, tmp_path: Path) -> None:
    assert "samples" not in page.values("id")
    shutil.copytree(inputs.figures, tmp_path / "figures")
    seen = read_json(inputs.figures / "seen.json")
    seen["metrics"][0]["shown"] = [
        {"rank": "easiest", "sample": 7, "value": 1234, "text": "the <cat> sat⏎on the mat"},
        {"rank": "hardest", "sample": 9, "value": 99_999, "text": "zymurgy"},
    ]
    write_json(tmp_path / "figures" / "seen.json", seen)
    report.build(*inputs._replace(figures=tmp_path / "figures"), tmp_path / "page.html")
    found = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "samples" in found.values("id")
    assert found.open == []
    for expected in ("the <cat> sat⏎on the mat", "easiest", "sample 9, difficulty 99,999", "zymurgy"):
        assert expected in found.visible
