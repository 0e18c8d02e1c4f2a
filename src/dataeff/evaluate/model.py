"""A finished run's folder, opened once (where tasks can be scored, with lm-eval's own `hf` model) and checked first.

The library fills what a weights file lacks with fresh random numbers and lets a tokenizer name ids that the
model does not have; either would be scored without a word. Here both are errors.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataeff.errors import DataeffError
from dataeff.families import Family, find_family
from dataeff.families.interface import Opened
from dataeff.files import read_json, sha256_file
from dataeff.memory import keep_freed_memory
from dataeff.study.faults import validate
from dataeff.study.types import Frozen, Run
from dataeff.tokens.vocabulary import PADDED_MULTIPLE
from dataeff.tokens.vocabulary import load as load_tokenizer

WEIGHTS = "model.safetensors"
FILES = ("config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json", "run.json")

OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_EVALUATE_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TQDM_MININTERVAL": "5",
}


class RunName(Frozen):
    """What evaluation needs of a run's run.json, which holds more."""

    run: Run
    name: str


@dataclass(frozen=True)
class OpenModel:
    """An opened run: its network in float32 and eval mode; `lm`, lm-eval's HFLM of it, or None where it has none."""

    folder: Path
    run: Run
    name: str
    digest: str
    sequence_length: int
    family: Family
    network: Any
    lm: Any


def open_model(folder: Path, batch_size: int, threads: int = 1) -> OpenModel:
    """Opens a run's Hugging Face folder on the graphics card if there is one, else on the CPU.

    Raises DataeffError where the folder is missing, lacks a file or weights, cannot be read, or its tokenizer
    is not the one of its model.
    """
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        what = f"it lacks {', '.join(missing)}" if folder.is_dir() else "no such folder"
        raise DataeffError(f"{folder}: {what}; this is no finished run, finish `pretrain` for it first")
    record = read_json(folder / "run.json")
    fields = {key: record[key] for key in RunName.model_fields if key in record}
    identity = validate(RunName, fields, str(folder / "run.json"))
    kind = find_family(identity.run.family)
    opened = _load(kind, folder, batch_size, threads)
    config = opened.network.config
    _check_weights(folder, opened.network)
    tokenizer = load_tokenizer(folder)
    _check_vocabulary(folder, config.vocab_size, tokenizer.vocab_size)
    if opened.lm is not None and opened.lm.tokenizer.eos_token_id is None:
        raise DataeffError(f"{folder / 'tokenizer_config.json'}: no eos_token; name the document separator there")
    return OpenModel(
        folder,
        identity.run,
        identity.name,
        sha256_file(folder / WEIGHTS),
        config.max_position_embeddings,
        kind(tokenizer),
        opened.network,
        opened.lm,
    )


def _load(kind: type[Family], folder: Path, batch_size: int, threads: int) -> Opened:
    # The libraries read these when they are imported; nothing is fetched, and bars print every few seconds.
    os.environ.update(OFFLINE)
    import torch

    torch.set_num_threads(threads)
    keep_freed_memory()
    try:
        return kind.open_finished(folder, batch_size)
    except DataeffError:
        raise
    except Exception as error:
        # Whatever the libraries raise for a damaged file (a dozen types), the remedy is the same.
        reason = str(error).strip().split("\n")[0]
        raise DataeffError(
            f"{folder}: cannot be opened ({type(error).__name__}: {reason}); delete the folder and run `pretrain` again"
        ) from error


def _check_weights(folder: Path, network: Any) -> None:
    from safetensors import safe_open

    with safe_open(folder / WEIGHTS, framework="pt") as weights:
        stored = set(weights.keys())
    tied = set(network.all_tied_weights_keys)
    absent = sorted(set(network.state_dict()) - stored - tied)
    if absent:
        raise DataeffError(
            f"{folder / WEIGHTS}: lacks {len(absent)} of the model's weights ({', '.join(absent[:3])}); "
            f"delete the folder and run `pretrain` again"
        )


def _check_vocabulary(folder: Path, rows: int, size: int) -> None:
    if not size <= rows <= -(-size // PADDED_MULTIPLE) * PADDED_MULTIPLE:
        raise DataeffError(
            f"{folder}: its tokenizer has {size} tokens but its model {rows}: different vocabularies; "
            f"put the tokenizer that the model was trained with into the folder"
        )
