"""The steps table as people read it: with the rows that a layer sees where whole samples are dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dataeff.study.specs import PlanSpec
from dataeff.token_counts import kept_rows

if TYPE_CHECKING:
    import pandas as pd

KEPT_ROWS = "kept_rows"


def drops_samples(spec: PlanSpec) -> bool:
    return spec.variant.token_drop is not None and spec.variant.token_drop.route == "samples"


def shown_table(spec: PlanSpec, table: pd.DataFrame) -> pd.DataFrame:
    """The table, with a column `kept_rows` after `kept_tokens` where the run drops whole samples."""
    if not drops_samples(spec):
        return table
    rows, length, kept = (table[name].to_numpy() for name in ("rows", "sequence_length", "kept_tokens"))
    shown = table.copy()
    shown.insert(list(shown).index("kept_tokens") + 1, KEPT_ROWS, kept_rows(rows, length, kept))
    return shown
