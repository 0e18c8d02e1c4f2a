"""The sample ids in the order in which a curriculum's pools admit them.

With one selecting metric that is order.npy of its difficulty index: referred to by path and digest, not copied (20 GB
for the papers' BERT). With several it is the result of intersect.py, a file of the plan's own.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataeff.errors import DataeffError
from dataeff.files import MANIFEST, read_json, sha256_file
from dataeff.samples.arrays import load_array

FILE = "admission.npy"
_ANALYZE_AGAIN, _PLAN_AGAIN = "run `dataeff analyze` again", "run `dataeff plan` again"


@dataclass(frozen=True, slots=True)
class Admission:
    """`ids` [samples], the `sha256` of the .npy that holds them, and that `file` (None: they are in memory only).

    `shared`: the file is a difficulty index's, not the plan's own.
    """

    ids: NDArray[Any]
    sha256: str
    file: Path | None = None
    shared: bool = False

    @classmethod
    def of_ids(cls, ids: NDArray[Any]) -> Admission:
        return cls(ids, _sha256_of_npy(ids))

    @classmethod
    def of_index(cls, folder: Path) -> Admission:
        """That of a single metric. The digest is the one in the index's manifest: 20 GB are not read for it."""
        file = Path(folder) / "order.npy"
        ids = load_array(file, (None,), "iu", _ANALYZE_AGAIN)
        return cls(ids, _sha256_in_manifest(file), file, shared=True)

    @classmethod
    def of_file(cls, file: Path) -> Admission:
        return cls(load_array(file, (None,), "iu", _PLAN_AGAIN), sha256_file(file), file)

    def save(self, folder: Path) -> dict[str, Any]:
        """Writes the ids into `folder`, unless they lie there or are an index's; returns what order.json says of
        them.
        """
        file = folder / FILE if self.file is None or not self.shared else self.file
        if self.file is None:
            np.save(file, self.ids)
        elif not file.exists():
            shutil.copyfile(self.file, file)
        # Relative to the folder, so that a tree of results can be moved or mounted elsewhere.
        relative = os.path.relpath(file.resolve(), folder.resolve())
        return {"file": relative, "samples": len(self.ids), "sha256": self.sha256, "shared": self.shared}

    @classmethod
    def load(cls, folder: Path, facts: Mapping[str, Any]) -> Admission:
        """Memory-mapped; refused if it is a difficulty index that was made anew, with another order, since."""
        file = Path(os.path.normpath(folder.resolve() / facts["file"]))
        ids = load_array(file, (facts["samples"],), "iu", _PLAN_AGAIN)
        if facts["shared"] and _sha256_in_manifest(file) != facts["sha256"]:
            raise DataeffError(f"{file}: not the order that {folder} was planned with; {_PLAN_AGAIN}")
        return cls(ids, facts["sha256"], file, facts["shared"])


def _sha256_in_manifest(file: Path) -> str:
    manifest = file.with_name(MANIFEST)
    try:
        facts = read_json(manifest)["files"][file.name]
        size, digest = int(facts["bytes"]), str(facts["sha256"])
    except (KeyError, TypeError, ValueError):
        raise DataeffError(f"{manifest}: says nothing of {file.name}; {_ANALYZE_AGAIN}") from None
    if file.stat().st_size != size:
        raise DataeffError(f"{file}: {file.stat().st_size} bytes, its manifest says {size}; {_ANALYZE_AGAIN}")
    return digest


class _Hashed:
    """A file that keeps only the digest of what is written to it."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return len(data)


def _sha256_of_npy(ids: NDArray[Any]) -> str:
    stream = _Hashed()
    np.lib.format.write_array(stream, ids, version=(1, 0))
    return stream.digest.hexdigest()
