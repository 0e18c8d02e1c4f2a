"""A small study in a folder of its own, with the data that snakemake would have made, for whole searches."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import yaml

from dataeff.corpus.build import build
from dataeff.corpus.fetch import fetch
from dataeff.study.load import load_study
from dataeff.study.specs import CorpusSpec, FetchSpec, read_spec, write_specs
from dataeff.tune import command
from tests.factory import ROOT, config, path_source
from tests.pretrain.training import TOKENIZERS, Material

VARIANTS = {
    "cl_seqtru": {"curriculum": {"seqlen": {"pacing": {"start": "1/4"}}}},
    "cl_voc": {"curriculum": {"vocab_rarity": {"pacing": {"start": 20}}}},
    "ltd": {"token_drop": {"pacing": {"start": "1/4", "multiple_of": 8}}},
}
GPT = {
    "tokenizer": "bpe320",
    "model": {"layers": 3, "hidden": 16, "heads": 2, "sequence_length": 64, "dropout": 0.0},
    "train_tokens": 16 * 8 * 64,
    "batch_size": 8,
    "learning_rate": {"peak": 5e-3, "minimum": 5e-5, "warmup_tokens": 1024},
    "max_epochs": 8,
}


def study_config(folder: Path, **family: Any) -> dict[str, Any]:
    """16 nominal steps of 8 x 64 of a GPT-2 of 3 layers x 16, with keys of the family replaced."""
    evaluation = {"tasks": [], "shots": [0], "items": 1, "heldout_bytes_per_domain": 1000}
    scale = {
        "about": "a test's",
        "corpus": "made_up",
        "families": {"gpt": {**GPT, **family}},
        "evaluation": evaluation,
        "hardware": {"checkpoint_every": 2},
    }
    return config(
        scale="little",
        scales={"little": scale},
        sources={"made_up": path_source(folder / "text")},
        corpora={"made_up": {"about": "made up", "sources": ["made_up"], "shards": 2}},
        tokenizers=dict([TOKENIZERS["gpt"]]),
        variants={"gpt": VARIANTS},
        grids={"core": [{"family": "gpt", "variants": ["baseline", "cl_seqtru", "cl_voc", "ltd"]}]},
    )


def write_study(folder: Path, data: Path | None = None, **family: Any) -> Path:
    """A study's folder, less its data; `data` is where its text lies, if not there."""
    shutil.copytree(ROOT / "config", folder / "config")
    raw = study_config((data or folder).resolve(), **family)
    (folder / "config" / "config.yaml").write_text(yaml.safe_dump(raw))
    return folder


def make_data(folder: Path) -> None:
    """Text, tokens, samples and the index of vocab_rarity, of GPT alone."""
    material = Material(folder, load_study(yaml.safe_load((folder / "config" / "config.yaml").read_text()), folder))
    results, manifest = folder / "results", folder / "results/data/sources/made_up.json"
    write_specs(material.study, results)
    fetch(read_spec(results / "data/sources/specs/made_up.yaml", FetchSpec), folder / "cache", manifest)
    build(read_spec(material.data / "specs/corpus.yaml", CorpusSpec), [manifest], material.data)
    material._make_samples("gpt")


def tune(root: Path, *words: str) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    command.run(parser.parse_args([*words, "--root", str(root)]))
