"""Numbers and columns for a terminal: ASCII, aligned, at most 100 columns wide."""

from __future__ import annotations

from collections.abc import Sequence

WIDTH = 100
_SIZES = ((1e9, "B"), (1e6, "M"), (1e3, "K"))


def short(count: float) -> str:
    """1_048_576_000_000 -> '1,048.6B' (as the papers count), 41_000 -> '41.0K', 12 -> '12'."""
    for size, letter in _SIZES:
        if abs(count) >= 0.99995 * size:
            return f"{count / size:,.1f}{letter}"
    return f"{count:.0f}"


def rate(value: float, *, aligned: bool = False) -> str:
    """A learning rate: 0.0004 -> '4e-4', or '4.00e-4' where it stands in a column; 0 -> '0'."""
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa if aligned else mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def hours(value: float) -> str:
    """GPU-hours with as many digits as they deserve: 16,609, 71.4, 0.21, <0.01."""
    if 0 < value < 0.01:
        return "<0.01"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2g}"


def dollars(value: float) -> str:
    if 0 < value < 0.01:
        return "<$0.01"
    return f"${value:,.0f}" if value >= 100 else f"${value:,.2f}"


def scientific(value: float) -> str:
    """2.72e21"""
    return f"{value:.2e}".replace("e+", "e")


def plural(count: int, word: str) -> str:
    """'1 job', '2 jobs'."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def columns(lines: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> list[str]:
    """Lines of equally many cells, each column as wide as its widest; the columns `left` at the left, others right."""
    widths = [max(len(line[index]) for line in lines) for index in range(len(lines[0]))]
    return [
        "  ".join(
            cell.ljust(width) if index in left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def ruled(lines: list[str]) -> list[str]:
    """A table's lines with a rule below the headings."""
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]


def labelled(pairs: Sequence[tuple[str, str]], indent: str = "  ") -> list[str]:
    """Lines `label  text`, the texts in one column, wrapped to the width."""
    from textwrap import wrap

    width = max(len(label) for label, _ in pairs)
    lines = []
    for label, text in pairs:
        first, *rest = wrap(text, WIDTH - len(indent) - width - 2) or [""]
        lines.append(f"{indent}{label.ljust(width)}  {first}".rstrip())
        lines += [f"{indent}{'':{width}}  {line}" for line in rest]
    return lines
