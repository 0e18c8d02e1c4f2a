"""Differences to the baseline at equal data with their intervals: domain by domain, and task by task (a forest plot).

Two intervals answer two questions. From three seeds on, one over seeds: could other seeds give another difference?
Of tasks, one over items (paired bootstrap, as in the table `tasks`): could other items of the same task?
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from matplotlib import pyplot as plt

from dataeff.figures.part import Part, in_domain, seeds_text
from dataeff.figures.style import SMALL, WIDTH_INCHES, Figure, Style
from dataeff.study.specs import GridSpec
from dataeff.tables.finetune import average_of, honest_of, tables_of
from dataeff.tables.quality import differences, mean_of
from dataeff.tables.results import Group, RunResult, domains_of, percent
from dataeff.tables.statistics import SEEDS_FOR_A_CLAIM, estimate
from dataeff.tables.tasks import AVERAGE, SHARES, Row, task_rows

COLUMNS = 3
MOST_GROUPS = 16
MOST_DOMAINS = 12
ROW_INCHES = 0.16
ROWS_ON_A_PAGE = 52
MOST_PAGES = 3
ITEMS_WIDTH = 4.5
"""Points: the pale bar of the interval over items lies under the thin one over seeds."""


# --- domains -------------------------------------------------------------------------------------------------


def domain_intervals_figure(part: Part, groups: Sequence[Group], styles: Mapping[str, Style]) -> Figure | None:
    """One panel a domain, one row a variant and data fraction; None where no group has seeds for an interval."""
    known = [group for group in groups if len(group.results) >= SEEDS_FOR_A_CLAIM]
    if not known:
        return None
    shown, domains = known[:MOST_GROUPS], domains_of(part.runs)[:MOST_DOMAINS]
    columns = min(COLUMNS, len(domains))
    rows = -(-len(domains) // columns)
    drawing, axes = plt.subplots(
        rows,
        columns,
        figsize=(WIDTH_INCHES, (ROW_INCHES * len(shown) + 0.55) * rows + 0.3),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axis, domain in zip(axes.flat, domains, strict=False):
        for row, group in enumerate(shown):
            found = differences(group, part.runs, group.data, partial(in_domain, domain)) or []
            _dot(axis, row, estimate(found).mean, estimate(found).half_width, styles[group.variant])
        axis.set_title(domain, parse_math=False)
        _zero(axis)
    _name_rows(axes[0, 0], [f"{group.variant}, {percent(group.data)}" for group in shown])
    for axis in axes.flat[len(domains) :]:
        axis.remove()
    drawing.supxlabel(f"{part.words.domain_unit} less the baseline's; left is better", fontsize=8)
    left_out = len(known) - len(shown)
    return Figure(
        part.name("domain_intervals"),
        part.title("Differences by domain, with intervals"),
        f"Held-out {part.words.domain_measure} of each domain, less that of the baseline of the same data fraction and "
        f"seed ({part.words.domain_unit}); bars are 95% t intervals of the paired differences, of which one "
        f"in twenty leaves out zero without any difference. Each panel has its own scale. {seeds_text(shown, 'dot')}"
        + (f" {left_out} variants with less data are not drawn." if left_out else ""),
        drawing,
    )


def _dot(axis: Any, row: int, mean: float, half_width: float | None, look: Style) -> None:
    if half_width is not None:
        axis.errorbar(mean, row, xerr=half_width, color=look.colour, capsize=2, linewidth=1.1)
    axis.plot(mean, row, **look.marks, markersize=4.5)


def _zero(axis: Any) -> None:
    axis.axvline(0, color="black", linewidth=0.9, zorder=1)
    axis.grid(axis="y", visible=False)
    axis.margins(x=0.08)
    axis.locator_params(axis="x", nbins=6)
    axis.tick_params(axis="x", labelsize=SMALL)
    axis.tick_params(axis="y", length=0, labelsize=SMALL)


def _name_rows(axis: Any, names: Sequence[str]) -> None:
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.4, -0.6)


# --- tasks ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """A variant at a data fraction: by task and how it was put (`0-shot`, finetuned) the differences; tasks from worst
    to best, the average last.
    """

    variant: str
    data: str
    names: list[str]
    cells: Mapping[tuple[str, str], Row]


def task_blocks(spec: GridSpec, part: Part) -> list[Block]:
    """Of every group with a baseline to differ from, in the table's order; shares alone have a common scale."""
    asked = [result for result in part.runs if result.tasks]
    shares = {
        name
        for result in asked[:1]
        for tasks in result.tasks.values()
        for name in tasks
        if tasks[name].aggregation in SHARES
    }
    grouped: dict[tuple[str, str], list[Row]] = {}
    for row in task_rows(spec, asked):
        if row.get("value_delta") is not None and row["task"] in shares | {AVERAGE}:
            grouped.setdefault((row["variant"], row["data"]), []).append(row | {"put": f"{row['shots']}-shot"})
    return [_block(variant, data, rows) for (variant, data), rows in grouped.items()]


def finetuned_blocks(part: Part) -> list[Block]:
    """The same of encoders, over the columns that they were finetuned for, by the honest rule."""
    tuned = [result for result in part.runs if result.finetuned]
    columns = {
        (table, name): partial(_honest, table, name)
        for table in tables_of(tuned)
        for name in dict.fromkeys(name for result in tuned for name in honest_of(table, result))
    }
    measures = columns | {(table, AVERAGE): partial(average_of, table, "honest") for table in tables_of(tuned)}
    blocks = []
    for group in part.groups if tuned else []:
        rows = []
        for (table, name), measure in measures.items():
            found = differences(group, part.runs, group.data, measure)
            if found:
                rows.append({"task": name, "put": f"finetuned, {table}", **mean_of("value_delta", found)})
        if rows:
            blocks.append(_block(group.variant, percent(group.data), rows))
    return blocks


def _honest(table: str, column: str, result: RunResult) -> float | None:
    found = honest_of(table, result).get(column)
    return None if found is None else found.value


def _block(variant: str, data: str, rows: Sequence[Row]) -> Block:
    cells = {(row["task"], row["put"]): row for row in rows}
    tasks = [name for name in dict.fromkeys(row["task"] for row in rows) if name != AVERAGE]
    means = {name: [row["value_delta"] for row in rows if row["task"] == name] for name in tasks}
    ordered = sorted(tasks, key=lambda name: sum(means[name]) / len(means[name]))
    return Block(variant, data, ordered + [AVERAGE] * any(row["task"] == AVERAGE for row in rows), cells)


def task_figures(part: Part, blocks: Sequence[Block], styles: Mapping[str, Style]) -> Iterator[Figure]:
    """As many pages as needed, up to three: a block of rows a variant, a column a way to put the tasks."""
    pages = _paged(blocks)
    shown = pages[:MOST_PAGES]
    left_out = len(blocks) - sum(map(len, shown))
    for number, page in enumerate(shown):
        yield _task_page(part, page, styles, number, len(shown), left_out)


def _paged(blocks: Sequence[Block]) -> list[list[Block]]:
    pages: list[list[Block]] = []
    room = 0
    for block in blocks:
        if len(block.names) + 2 > room:
            pages.append([])
            room = ROWS_ON_A_PAGE
        pages[-1].append(block)
        room -= len(block.names) + 2
    return pages


def _task_page(
    part: Part, page: Sequence[Block], styles: Mapping[str, Style], number: int, pages: int, left_out: int
) -> Figure:
    ways = list(dict.fromkeys(way for block in page for _, way in block.cells))
    drawing, axes = plt.subplots(
        len(page),
        len(ways),
        figsize=(WIDTH_INCHES, sum(ROW_INCHES * len(block.names) + 0.3 for block in page) + 0.6),
        height_ratios=[len(block.names) + 1 for block in page],
        sharex="col",
        sharey="row",
        squeeze=False,
        layout="constrained",
    )
    for row, block in zip(axes, page, strict=True):
        for axis, way in zip(row, ways, strict=True):
            _forest(axis, block, way, styles[block.variant])
            axis.set_title(way)
        _name_rows(row[0], block.names)
        row[0].set_title(f"{block.variant}, {block.data} data: {ways[0]}")
    drawing.supxlabel("score less the baseline's (percentage points); right is better", fontsize=8)
    rows = [cell for block in page for cell in block.cells.values()]
    return Figure(
        part.name("tasks") + (f"_{number + 1}" if number else ""),
        part.title("Differences by task") + (f" ({number + 1} of {pages})" if pages > 1 else ""),
        "Score of each task less that of the baseline of the same data fraction, seed and items, in percentage points; "
        "tasks from the worst to the best difference, their plain average below the line. "
        + _about_intervals(rows)
        + (f" {left_out} variants further down the table are not drawn." if left_out and number + 1 == pages else ""),
        drawing,
    )


def _about_intervals(rows: Sequence[Row]) -> str:
    text = ""
    if any(row.get("value_delta_low") is not None for row in rows):
        text += "Pale bars: 95% intervals over items (paired bootstrap). Tasks not scored by a share are left out. "
    else:
        text += "Each on the half of the items that nothing was chosen on. "
    if any(row.get("value_delta_interval") is not None for row in rows):
        return text + "Thin bars with ends: 95% t intervals over seeds."
    return text + f"No interval over seeds can be given with fewer than {SEEDS_FOR_A_CLAIM}, and no claim is made."


def _forest(axis: Any, block: Block, way: str, look: Style) -> None:
    for place, name in enumerate(block.names):
        row = block.cells.get((name, way))
        if row is None:
            continue
        if row.get("value_delta_low") is not None:
            ends = [100 * row["value_delta_low"], 100 * row["value_delta_high"]]
            axis.plot(ends, [place, place], color=look.colour, alpha=0.3, linewidth=ITEMS_WIDTH, solid_capstyle="butt")
        interval = row.get("value_delta_interval")
        _dot(axis, place, 100 * row["value_delta"], None if interval is None else 100 * interval, look)
    if block.names[-1] == AVERAGE:
        axis.axhline(len(block.names) - 1.5, color="#767676", linewidth=0.8)
    _zero(axis)
