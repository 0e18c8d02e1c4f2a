"""Index files that Megatron made already, taken as they are; and what Megatron is to be told to take ours.

A user who has trained with Megatron has its .npy files. They are linked into a sample folder beside a samples.json, so
that everything downstream reads them like our own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dataeff.errors import DataeffError
from dataeff.files import atomic_directory, read_json, write_json, write_manifest
from dataeff.samples.arrays import load_array
from dataeff.samples.batch import SpecialIds
from dataeff.samples.gpt import ARRAYS, DESCRIPTION, FACTS, RUN_AGAIN, Samples, write_facts
from dataeff.samples.pairs import PairSamples
from dataeff.samples.tokens import describe, open_tokens

_ANOTHER = "give another file"
_ANY_IDS = SpecialIds(0, 0, 0)


def adopt_windows(files: Mapping[str, Path], prefixes: Sequence[Path], sequence_length: int, out: Path) -> None:
    """A folder of GPT samples from given doc_idx, sample_idx and shuffle_idx files; checked by opening it."""
    missing = [name for name in ARRAYS if name not in files]
    if missing:
        raise DataeffError(f"existing sample index: {', '.join(missing)} missing; the three files go together")
    documents = len(load_array(files["doc_idx"], (None,), "i", _ANOTHER))
    samples = len(load_array(files["shuffle_idx"], (None,), "iu", _ANOTHER))
    facts = {
        "family": "gpt",
        "samples": samples,
        "sequence_length": sequence_length,
        "documents": documents,
        "epochs": 1,
        "token_files": describe(open_tokens(prefixes)),
    }
    given = {f"{name}.npy": Path(files[name]) for name in ARRAYS}
    _adopt(given, out, lambda folder: write_facts(folder, facts), lambda folder: Samples(folder, prefixes))


def adopt_mapping(mapping: Path, prefixes: Sequence[Path], sequence_length: int, seed: int, out: Path) -> None:
    """A folder of sentence pairs from a given index map; `seed` is what their cuts are drawn from."""
    samples = len(load_array(mapping, (None, 3), "iu", _ANOTHER))
    facts = {
        "family": "bert",
        "samples": samples,
        "sequence_length": sequence_length,
        "seed": seed,
        "token_files": describe(open_tokens(prefixes)),
    }
    given = {"samples_mapping.npy": Path(mapping)}
    _adopt(
        given,
        out,
        lambda folder: write_json(folder / FACTS, facts),
        lambda folder: PairSamples(folder, prefixes, _ANY_IDS),
    )


def _adopt(
    files: Mapping[str, Path], out: Path, describe_it: Callable[[Path], None], check: Callable[[Path], Any]
) -> None:
    """The folder takes its name only once it has been opened: files that do not fit leave nothing behind."""
    with atomic_directory(out) as folder:
        for name, path in files.items():
            (folder / name).symlink_to(path.resolve())
        describe_it(folder)
        try:
            check(folder)
        except DataeffError as error:
            given = ", ".join(str(path) for path in files.values())
            raise DataeffError(str(error).replace(str(folder), given)) from None
        write_manifest(folder)


def megatron_arguments(folder: Path) -> list[str]:
    """Command-line arguments with which Megatron-DeepSpeed trains on the samples of this folder.

    It trains on one token file: where the samples are of several, merge them in the same order first.
    """
    folder = Path(folder).absolute()
    facts = read_json(folder / FACTS)
    if isinstance(facts, dict) and facts.get("family") == "bert":
        options = {"--train-idx-path": folder / "samples_mapping.npy"}
    else:
        options = {"--train-desc-path": folder / DESCRIPTION}
        options |= {f"--train-{name.replace('_', '-')}-path": folder / f"{name}.npy" for name in ARRAYS}
    for path in options.values():
        if not path.is_file():
            # Megatron would not stop, but make an index of its own.
            raise DataeffError(f"{path}: no such file; {RUN_AGAIN}")
    return [text for option, path in options.items() for text in (option, str(path))]
