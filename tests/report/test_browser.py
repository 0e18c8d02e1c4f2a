"""The page in a real browser: no error, sorting, curves, colours, and the width of a phone.

Pictures of what was seen are kept in the folder that DATAEFF_SCREENSHOTS names, else in pytest's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataeff.tables.table import read_table
from tests.report.browser import CHROMIUM, Browser, chromium
from tests.report.pages import Inputs, grid_of_both

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, which is not installed")

PHONE = (390, 844)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("chromium")) as found:
        yield found


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    named = os.environ.get("DATAEFF_SCREENSHOTS")
    return Path(named) if named else tmp_path_factory.mktemp("screenshots")


@pytest.fixture(scope="module")
def both(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    found = grid_of_both(tmp_path_factory.mktemp("both"), inputs.figures)
    found.build()
    return found


def cells(browser: Browser, label: str, column: int) -> list[str]:
    """The texts of a column of the table in the region of that label."""
    texts: list[str] = browser.run(
        f"[...document.querySelector('[aria-label={json.dumps(label)}] table').tBodies[0].rows]"
        f".map((row) => row.cells[{column}].textContent.trim())"
    )
    return texts


def heading(label: str, text: str) -> str:
    return (
        f"[...document.querySelectorAll('[aria-label={json.dumps(label)}] th button')]"
        f".find((button) => button.textContent === {json.dumps(text)})"
    )


def choose(browser: Browser, legend: str, text: str) -> None:
    """Clicks one of the form's choices."""
    browser.click(
        "[...document.querySelectorAll('#controls fieldset')]"
        f".find((set) => set.querySelector('legend').textContent === {json.dumps(legend)})"
        ".querySelectorAll('label').values()"
        f".find((label) => label.textContent === {json.dumps(text)}).querySelector('input')"
    )


def drawn(browser: Browser) -> list[str]:
    """The labels of the curves that the chart holds."""
    found: list[str] = browser.run(
        "(Chart.getChart(document.getElementById('chart'))?.data.datasets ?? []).map((set) => set.label)"
    )
    return found


def test_it_opens_without_an_error_and_asks_for_nothing_else(
    browser: Browser, three_seeds: Inputs, pictures: Path
) -> None:
    browser.open(three_seeds.page)
    browser.picture(pictures / "light.png")
    browser.picture(pictures / "whole.png", whole=True)
    assert browser.faults == []
    assert [url for url in browser.requested if not url.startswith(("data:", "file:"))] == []
    assert len([url for url in browser.requested if url.startswith("file:")]) == 1
    assert browser.run("[...document.images].every((image) => image.complete && image.naturalWidth > 100)")


def test_the_first_screen_holds_the_claims(browser: Browser, three_seeds: Inputs) -> None:
    browser.open(three_seeds.page)
    place = browser.run("document.querySelector('article.claim').getBoundingClientRect().top")
    assert 0 < place < 900


def test_an_error_in_a_page_is_seen(browser: Browser, text: str, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(text.replace("</body>", "<script>undefined_function();</script></body>"), encoding="utf-8")
    browser.open(page)
    assert any("undefined_function is not defined" in fault for fault in browser.faults)
    page.write_text(text.replace("</body>", '<img src="nowhere.png"></body>'), encoding="utf-8")
    browser.open(page)
    assert browser.faults


def test_tables_are_sorted_by_value(browser: Browser, three_seeds: Inputs) -> None:
    quality = read_table(three_seeds.tables, "quality")
    sections = {name: f"{quality.title}: {title}" for name, title in quality.filled_sections().items()}
    (loss,) = [column.heading for column in quality.columns if column.key == "heldout_loss"]
    (ratio,) = [column.heading for column in quality.columns if column.key == "time_ratio"]
    browser.open(three_seeds.page)
    held, cost = sections["heldout"], sections["cost"]

    browser.click(heading(held, loss))
    order = sorted(quality.rows, key=lambda row: row["heldout_loss"])
    assert cells(browser, held, 0) == [row["variant"] for row in order]
    browser.press("Enter")
    assert cells(browser, held, 0) == [row["variant"] for row in reversed(order)]

    for _ in range(2):
        browser.click(heading(cost, ratio))
    known = sorted((row for row in quality.rows if row["time_ratio"] is not None), key=lambda row: -row["time_ratio"])
    absent = [row for row in quality.rows if row["time_ratio"] is None]
    assert absent
    assert cells(browser, cost, 0) == [row["variant"] for row in [*known, *absent]]
    sorts = browser.run("[...document.querySelectorAll('[aria-sort]')].map((th) => th.getAttribute('aria-sort'))")
    assert sorts == ["descending", "descending"]
    assert browser.faults == []


def test_published_numbers_are_sorted_by_value_and_not_by_mark(browser: Browser, both: Inputs) -> None:
    browser.open(both.page)
    number = "GLUE average (%)"
    table = browser.run(
        "[...document.querySelectorAll('.scroll')].findIndex((region) => "
        f"[...region.querySelectorAll('th button')].some((button) => button.textContent === {json.dumps(number)}))"
    )
    region = f"document.querySelectorAll('.scroll')[{table}]"
    column = f"[...{region}.querySelectorAll('th')].findIndex((th) => th.textContent === {json.dumps(number)})"
    texts = f"[...{region}.querySelector('tbody').rows].map((row) => row.cells[{column}].textContent.trim())"
    before = browser.run(texts)
    browser.click(f"{region}.querySelectorAll('th')[{column}].querySelector('button')")
    assert browser.run(texts) == ["86.61†", "87.29", "87.44†", "87.48", "88.17†"]
    assert before != browser.run(texts)
    assert browser.faults == []


def test_curves_follow_what_is_chosen(browser: Browser, three_seeds: Inputs, pictures: Path) -> None:
    browser.open(three_seeds.page)
    assert drawn(browser) == ["baseline 100%", "cl_voc 100%", "ltd 100%"]
    assert cells(browser, "Where the curves end", 0) == drawn(browser)
    choose(browser, "data", "25%")
    assert drawn(browser) == ["baseline 100%", "cl_voc 100%", "ltd 100%", "baseline 25%", "ltd 25%"]
    choose(browser, "variants", "cl_voc")
    choose(browser, "data", "100%")
    assert drawn(browser) == ["baseline 25%", "ltd 25%"]
    choose(browser, "seeds", "each run")
    assert drawn(browser) == [f"{name} 25%, seed {seed}" for name in ("baseline", "ltd") for seed in (1, 2, 3)]
    choose(browser, "against", "training time")
    title = "Chart.getChart(document.getElementById('chart')).options.scales.x.title.text"
    assert browser.run(title).startswith("training time")
    choose(browser, "show", "whole run")
    browser.picture(pictures / "curves.png")
    choose(browser, "variants", "baseline")
    choose(browser, "variants", "ltd")
    assert drawn(browser) == []
    assert browser.run("document.getElementById('chart-says').textContent").startswith("Nothing is chosen")
    assert browser.faults == []


def test_pointing_at_a_curve_tells_its_values(browser: Browser, three_seeds: Inputs) -> None:
    browser.open(three_seeds.page)
    browser.place("document.getElementById('chart')")
    x, y = browser.run(
        "(() => { const chart = Chart.getChart(document.getElementById('chart')); "
        "const at = chart.getDatasetMeta(0).data.at(-1); const box = chart.canvas.getBoundingClientRect(); "
        "return [box.x + at.x, box.y + at.y]; })()"
    )
    browser.point(x, y)
    browser.wait(lambda: browser.run("Chart.getChart(document.getElementById('chart')).tooltip?.opacity > 0"))
    says = browser.run("Chart.getChart(document.getElementById('chart')).tooltip.body.flatMap((part) => part.lines)")
    assert says[0].startswith("loss ")
    assert says[1].startswith("over seeds ")


def test_curves_of_each_family(browser: Browser, both: Inputs) -> None:
    browser.open(both.page)
    of_gpt = drawn(browser)
    title = "Chart.getChart(document.getElementById('chart')).options.scales.y.title.text"
    assert browser.run(title) == "held-out loss (nats/token)"
    browser.click("document.querySelectorAll('#controls fieldset')[0].querySelectorAll('input')[1]")
    assert browser.run(title) == "held-out loss (nats/masked token)"
    assert drawn(browser) != of_gpt
    assert browser.faults == []


def ground(browser: Browser) -> str:
    return str(browser.run("getComputedStyle(document.body).backgroundColor"))


def test_it_is_dark_where_the_system_is_and_as_chosen(browser: Browser, three_seeds: Inputs, pictures: Path) -> None:
    browser.open(three_seeds.page)
    light = ground(browser)
    browser.open(three_seeds.page, dark=True)
    dark = ground(browser)
    browser.picture(pictures / "dark.png")
    assert light == "rgb(255, 255, 255)"
    assert dark != light
    change = "theme.value = {}; theme.dispatchEvent(new Event('change'))"
    browser.run(change.format("'light'"))
    assert ground(browser) == light
    browser.run(change.format("''"))
    assert ground(browser) == dark
    assert browser.faults == []


def test_a_phone_shows_it_without_scrolling_sideways(browser: Browser, both: Inputs, pictures: Path) -> None:
    browser.open(both.page, *PHONE)
    browser.picture(pictures / "phone.png")
    assert browser.run("document.documentElement.scrollWidth") <= PHONE[0]
    wide = browser.run(
        "[...document.querySelectorAll('main > *, .claim, .chart, figure')]"
        f".filter((part) => part.getBoundingClientRect().right > {PHONE[0] + 1}).map((part) => part.tagName)"
    )
    assert wide == []
    choose(browser, "show", "whole run")
    assert browser.faults == []
    smallest = browser.run(
        "Math.min(...[...document.querySelectorAll('#controls label')]"
        ".map((label) => label.getBoundingClientRect().height))"
    )
    assert smallest >= 24


def test_a_link_to_a_run_leads_to_its_row(browser: Browser, three_seeds: Inputs) -> None:
    browser.open(three_seeds.page)
    browser.click("document.querySelector('td.behind > a')")
    browser.wait(lambda: browser.run("document.querySelector(':target') !== null"))
    assert browser.run("document.querySelector(':target').id").startswith("run-gpt-")
    shown = browser.run("document.querySelector(':target').getBoundingClientRect().top")
    assert 0 < shown < 900
