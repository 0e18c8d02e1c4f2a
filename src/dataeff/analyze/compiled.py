"""Keeps the compiled kernels of samples, their order and analysis between commands: half of a short one's time is
compiling.

They lie under the user's cache folder, apart for every state of the sources, since the compiler's own bookkeeping does
not see a change in a function that is called from another file. Where nothing can be written there, everything is
compiled anew.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from tempfile import TemporaryFile

import numba
import numpy as np
from numba.core.dispatcher import Dispatcher

import dataeff
from dataeff.files import canonical_digest, sha256_file

FOLDERS = ("analyze", "samples", "families", "evaluate")
MODULES = ("order_draws", "order_buckets")
ROOM_BYTES = 4 << 20
"""Some eight times of what is kept."""


def keep_compiled(cache: Path | None = None) -> bool:
    """From now on the kernels that are loaded are taken from the cache and put there; False where that cannot be."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    folder = (cache or base / "dataeff") / "compiled" / _sources_digest()
    if not _is_writable(folder):
        return False
    numba.config.CACHE_DIR = str(folder)
    kept = {f"dataeff.{module}" for module in MODULES}
    for name, module in list(sys.modules.items()):
        if name in kept or name.startswith(tuple(f"dataeff.{part}." for part in FOLDERS)):
            for value in vars(module).values():
                if isinstance(value, Dispatcher) and value.py_func.__module__ == name:
                    value.enable_caching()
    return True


def _sources_digest() -> str:
    root = Path(str(dataeff.__file__)).parent
    files = sorted(path for part in FOLDERS for path in (root / part).glob("*.py"))
    # The functions of keyed are compiled into others'.
    files += [root / f"{module}.py" for module in (*MODULES, "keyed")]
    found = {str(path.relative_to(root)): sha256_file(path) for path in files}
    return canonical_digest([found, numba.__version__, np.__version__])[:16]


def _is_writable(folder: Path) -> bool:
    """Whether there is room, too: the compiler would stop at a full disk."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder) as probe:
            probe.write(bytes(ROOM_BYTES))
    except OSError:
        return False
    return True
