"""A finished run's folder, opened once (where tasks can be scored, with lm-eval's own `hf` model) and checked first.

The library fills what a weights file lacks with fresh random numbers and lets a tokenizer name ids that the
model does not have; either would be scored without a word. Here both are errors. Tasks can also be put to models
that are no runs of the study: any folder of a causal model, or a name of the Hugging Face hub that is in its cache.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from dataeff.errors import DataeffError
from dataeff.families import Family, find_family
from dataeff.families.interface import Opened
from dataeff.families.traits import TRAITS
from dataeff.files import MANIFEST, canonical_digest, check_manifest, read_json, sha256_file
from dataeff.memory import keep_freed_memory
from dataeff.study.base import Frozen
from dataeff.study.faults import validate
from dataeff.study.types import Run
from dataeff.tokens.vocabulary import PADDED_MULTIPLE
from dataeff.tokens.vocabulary import load as load_tokenizer

WEIGHTS = "model.safetensors"
FILES = ("config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json", "run.json")

WEIGHT_FILES = ("*.safetensors", "pytorch_model*.bin")
"""Of other models' folders, in the library's order of preference."""
OF_A_RUN = ("run.json", "metrics.jsonl", "timings.json")
"""What only runs of the study have: a folder with any of them must be a whole run."""
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")

Result = TypeVar("Result")

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


@dataclass(frozen=True)
class AskedModel:
    """A model that tasks can be put to. `run` is None of one that is no run of the study; `digest`: of its weights."""

    folder: Path
    run: Run | None
    name: str
    digest: str
    lm: Any


def open_model(folder: Path, batch_size: int, threads: int = 1) -> OpenModel:
    """Opens a run's Hugging Face folder on the graphics card if there is one, else on the CPU.

    Raises DataeffError where the folder is missing, lacks a file or weights, cannot be read, or its tokenizer
    is not the one of its model.
    """
    return _open(folder, threads, lambda kind: kind.open_finished(folder, batch_size))


def open_network(folder: Path, threads: int = 1) -> OpenModel:
    """The same without lm-eval's model (`lm` is None), whose import takes seconds: for what needs the network alone."""
    return _open(folder, threads, lambda kind: _network_of(kind, folder))


def _open(folder: Path, threads: int, load: Callable[[type[Family]], Opened]) -> OpenModel:
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        what = f"it lacks {', '.join(missing)}" if folder.is_dir() else "no such folder"
        raise DataeffError(f"{folder}: {what}; this is no finished run, finish `pretrain` for it first")
    record = read_json(folder / "run.json")
    _check_manifest(folder)
    fields = {key: record[key] for key in RunName.model_fields if key in record}
    identity = validate(RunName, fields, str(folder / "run.json"))
    kind = find_family(identity.run.family)
    opened = _loaded(folder, threads, "delete the folder and run `pretrain` again", lambda: load(kind))
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


def _loaded(folder: Path, threads: int, remedy: str, load: Callable[[], Result]) -> Result:
    # The libraries read these when they are imported; nothing is fetched, and bars print every few seconds.
    os.environ.update(OFFLINE)
    import torch

    torch.set_num_threads(threads)
    keep_freed_memory()
    try:
        return load()
    except DataeffError:
        raise
    except Exception as error:
        # Whatever the libraries raise for a damaged file (a dozen types), the remedy is the same.
        reason = str(error).strip().split("\n")[0]
        raise DataeffError(f"{folder}: cannot be opened ({type(error).__name__}: {reason}); {remedy}") from error


def _network_of(kind: type[Family], folder: Path) -> Opened:
    if not TRAITS[kind.name].causal:
        return kind.open_finished(folder, 1)
    import torch
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return Opened(network.to("cuda" if torch.cuda.is_available() else "cpu").eval(), None)


# --- models that tasks are put to -----------------------------------------------------------------------------


def ask_model(model: Path, batch_size: int, threads: int = 1) -> AskedModel:
    """A run's folder, the folder of any other causal model, or a hub name whose files are in the hub's cache.

    Raises DataeffError where nothing can be opened, weights are missing or the model's family cannot be prompted.
    """
    folder = Path(model)
    if not folder.is_dir():
        cached = _cached(str(model))
        return _ask_other(cached, str(model), batch_size, threads)
    if not any((folder / name).exists() for name in OF_A_RUN):
        return _ask_other(folder, folder.resolve().name, batch_size, threads)
    opened = open_model(folder, batch_size, threads)
    if opened.lm is None:
        title = TRAITS[opened.run.family].title
        raise DataeffError(f"{folder}: a {title} continues no text, so that no task can be put to it; finetune it")
    return AskedModel(folder, opened.run, opened.name, opened.digest, opened.lm)


def _cached(name: str) -> Path:
    """The folder of a hub name's files in the hub's cache; nothing is fetched."""
    if not HUB_NAME.fullmatch(name):
        raise DataeffError(f"{name}: no such folder; this is no finished run, finish `pretrain` for it first")
    os.environ.update(OFFLINE)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except Exception:
        # The library has half a dozen types of error for a name that its cache lacks.
        raise DataeffError(
            f"{name}: neither a folder nor a model in the Hugging Face cache; finish `pretrain` for it if it is a run, "
            f"or run `hf download {name}` where there is a network"
        ) from None


def _ask_other(folder: Path, name: str, batch_size: int, threads: int) -> AskedModel:
    weights = next((found for glob in WEIGHT_FILES if (found := sorted(folder.glob(glob)))), [])
    missing = [file for file in ("config.json",) if not (folder / file).is_file()]
    missing += [] if weights else ["weights (*.safetensors or pytorch_model*.bin)"]
    if missing:
        raise DataeffError(f"{folder}: it lacks {', '.join(missing)}; a folder of a causal model is needed")
    lm = _loaded(folder, threads, "put a whole model and its tokenizer there", lambda: _causal(folder, batch_size))
    if len(lm.tokenizer) > lm.model.get_input_embeddings().num_embeddings:
        raise DataeffError(
            f"{folder}: its tokenizer has {len(lm.tokenizer)} tokens but its model "
            f"{lm.model.get_input_embeddings().num_embeddings}: different vocabularies; put the tokenizer that the "
            f"model was trained with into the folder"
        )
    digests = {file.name: sha256_file(file) for file in weights}
    digest = next(iter(digests.values())) if len(digests) == 1 else canonical_digest(digests)
    return AskedModel(folder, None, name, digest, lm)


def _causal(folder: Path, batch_size: int) -> Any:
    import torch
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM

    network, loading = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    absent = sorted({*loading["missing_keys"], *(str(key) for key in loading["mismatched_keys"])})
    if absent:
        raise DataeffError(
            f"{folder}: the weights lack {len(absent)} of the model's ({', '.join(absent[:3])}), or have them in other "
            f"sizes; bring a whole model"
        )
    network.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    # families/gpt.py says why logits are not shared.
    return HFLM(
        pretrained=network,
        tokenizer=str(folder),
        backend="causal",
        batch_size=batch_size,
        logits_cache=False,
    )


# --- checks ---------------------------------------------------------------------------------------------------


def _check_manifest(folder: Path) -> None:
    """A run's folder tells what its training left in it: a tokenizer of the same size would fit any other model too."""
    fault = check_manifest(folder) if (folder / MANIFEST).exists() else None
    if fault:
        raise DataeffError(
            f"{fault}: {folder} is not as its training left it (half-written, damaged, or another model's file); put "
            f"that file back, or delete the folder and run `pretrain` again"
        )


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
