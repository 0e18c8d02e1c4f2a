"""A native difficulty index of given values, without samples or tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dataeff.analyze.map import integer_type
from dataeff.files import write_json
from dataeff.samples import id_type


def write_native(folder: Path, metric: str, values: Any) -> None:
    array = np.asarray(values, dtype=np.int64)
    low, high = int(array.min()), int(array.max())
    folder.mkdir(parents=True)
    np.save(folder / "value.npy", array.astype(integer_type(low, high)))
    np.save(folder / "order.npy", np.argsort(array, kind="stable").astype(id_type(len(array))))
    facts = {"metric": metric, "min": low, "max": high, "samples": len(array), "family": "gpt", "sequence_length": 8}
    write_json(folder / "index.json", facts)
