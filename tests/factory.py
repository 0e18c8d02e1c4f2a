"""Specs and configurations that tests start from; each test states only its difference."""

from __future__ import annotations

import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import yaml

from dataeff.study.load import Study, load_study
from dataeff.study.specs import PlanSpec
from dataeff.study.types import LearningRate, Run, Variant

ROOT = Path(__file__).parents[1]

SEQTRU = {
    "seqlen": {
        "apply": "truncate",
        "pacing": {"start": "5/128", "end": 1, "over": "110000/286102", "multiple_of": 8},
    }
}
SEQRES = {
    "seqlen": {
        "apply": "reshape",
        "pacing": {"start": "5/128", "end": 1, "over": "110000/286102", "multiple_of": 8},
    }
}
VOC = {
    "vocab_rarity": {
        "apply": "select",
        "pacing": {"start": 1, "end": 100, "over": "110000/286102", "root": 2},
    }
}
LTD = {"pacing": {"start": "1/16", "end": 1, "over": "200000/286102", "multiple_of": 16}}


def paper_plan_spec(variant: dict[str, Any] | None = None, **changes: Any) -> PlanSpec:
    """The GPT-3 1.3B run of the papers: 300B tokens, batch 512 x 2048, 24 layers."""
    fields: dict[str, Any] = {
        "run": Run(family="gpt", variant="test", data=Fraction(1), seed=1234),
        "variant": Variant.model_validate(variant or {}),
        "layers": 24,
        "sequence_length": 2048,
        "batch_size": 512,
        "train_tokens": 300_000_000_000,
        "learning_rate": LearningRate(peak=2e-4, minimum=1e-6, warmup_tokens=3_000_000_000),
        "max_epochs": Fraction(4),
        "published_steps": {},
    }
    flat = fields["variant"].lr_scaling == "none"
    fields["learning_rate_factor"] = Fraction(1) if flat else 1 / changes.get("run", fields["run"]).data
    return PlanSpec(**{**fields, **changes})


def small_plan_spec(variant: dict[str, Any] | None = None, **changes: Any) -> PlanSpec:
    """A run of 40 nominal steps of 4 x 64 on 4 layers."""
    fields: dict[str, Any] = {
        "layers": 4,
        "sequence_length": 64,
        "batch_size": 4,
        "train_tokens": 40 * 4 * 64,
        "learning_rate": LearningRate(peak=1e-3, minimum=1e-5, warmup_tokens=1024),
    }
    return paper_plan_spec(variant, **{**fields, **changes})


def config(**changes: Any) -> dict[str, Any]:
    """config/config.yaml with keys replaced."""
    raw: dict[str, Any] = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    return {**raw, **changes}


def own_variant(variant: dict[str, Any] | None, data: list[Any] | None = None) -> dict[str, Any]:
    """A configuration whose only runs are of one variant of its own, named `mine`."""
    entry: dict[str, Any] = {"family": "gpt", "variants": ["mine"]}
    grids = {"core": [entry if data is None else {**entry, "data": data}]}
    return config(scale="smoke", variants={"gpt": {"mine": variant}}, grids=grids)


def own_scale(**changes: Any) -> dict[str, Any]:
    """A configuration at a scale of its own, `mine`: smoke with keys replaced."""
    return config(scale="mine", scales={"mine": {"about": "a test's", "extends": "smoke", **changes}})


def path_source(path: Path, **changes: Any) -> dict[str, Any]:
    """A source of local text files."""
    about = {"about": "made up", "licence": "CC0", "stands_in_for": "nothing"}
    fetch = {"kind": "path", "path": str(path)}
    return {"domain": "Made up", **about, "fetch": fetch, "reader": "text", **changes}


def edited_config(folder: Path, file: str = "", old: str = "", new: str = "") -> Path:
    """A copy of config/ below `folder` with one text of one file replaced; the folder, to load a study from."""
    shutil.copytree(ROOT / "config", folder / "config")
    if file:
        path = folder / "config" / file
        text = path.read_text()
        assert old in text, f"{file} does not hold {old!r}"
        path.write_text(text.replace(old, new, 1))
    return folder


def load(raw: dict[str, Any] | None = None, root: Path = ROOT) -> Study:
    return load_study(config(scale="smoke") if raw is None else raw, root)
