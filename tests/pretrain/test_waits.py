"""The host runs ahead of a graphics card: nothing in a pass needs a value from it, a step needs the losses once.

Without a card at hand: see waits.py.
"""

from __future__ import annotations

import json
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import transformers

from dataeff.families import Family, find_family
from dataeff.families.batch import Cut, LengthRule, StepBatch
from dataeff.pretrain.engine import checkpoint_activations
from dataeff.token_drop import Route, TokenDrop, transformer_layers
from dataeff.tokens.tokenizer import load
from tests.pretrain.training import Material
from tests.pretrain.waits import Copies, tell_values

STEP_ROWS = 100


def family_of(material: Material, name: str) -> Family:
    return find_family(name)(load(material.tokenized(name) / "tokenizer"))


def step_of(
    material: Material, family: Family, length: int, apply: LengthRule = None, window: int | None = None
) -> StepBatch:
    samples = family.open_samples(material.item(family.name) / "samples", material.token_files(family.name))
    return family.step_batch(samples, np.arange(STEP_ROWS), Cut(length, apply, False, 1234, 0, window))


def network_of(material: Material, family: Family) -> Any:
    """On the meta device, with dropout, as training has it."""
    return family.build_model(material.study.scale.families[family.name].model).to("meta").train()


def rows_of(batch: StepBatch) -> np.ndarray:
    """Three rows of a step; BERT's all with padding, or none of them where the step is cut."""
    lengths = batch.arrays.get("lengths", np.arange(STEP_ROWS))
    shortest = np.argsort(lengths, kind="stable")[:3]
    return shortest if lengths.max() > 8 else np.argsort(-lengths, kind="stable")[:3]


def make_pass(family: Family, network: Any, batch: StepBatch, drop: TokenDrop | None, kept: int) -> Copies:
    """As Steps.forward_backward does it, less the engine; a second time backward as activation checkpointing may."""
    rows = rows_of(batch)
    with Copies() as copies:
        part = batch.part(rows, "meta")
        if drop is not None:
            drop.set_step(3, kept=kept, rows_B=torch.from_numpy(rows), rows=batch.rows)
        sums = family.loss_sums(network, part)
        reduce(add, [loss / batch.counts[name] for name, loss in sums.items()]).backward()
        torch.stack([loss.detach().double() for loss in sums.values()])
    return copies


@pytest.mark.parametrize(
    ("name", "length", "apply", "window"),
    [
        ("gpt", 64, None, None),
        ("gpt", 16, "reshape", 8),
        ("bert", 64, None, None),
        ("bert", 8, "truncate", None),
    ],
)
def test_no_pass_waits(material: Material, name: str, length: int, apply: LengthRule, window: int | None) -> None:
    """Without token dropping and with each kind of it, with activations kept and computed again."""
    family = family_of(material, name)
    batch = step_of(material, family, length, apply, window)
    if name == "bert":
        assert (batch.arrays["lengths"][rows_of(batch)] < length).all() == (length == 64)
    network = network_of(material, family)
    for recompute in (False, True):
        if recompute:
            checkpoint_activations(network)
        for route in (None, *get_args(Route)):
            drop = None if route is None else TokenDrop.attach(network, layers=[1, 2], seed=1, route=route)
            network.zero_grad()
            copies = make_pass(family, network, batch, drop, kept=length // 2)
            assert copies.waited == []
            assert copies.all > 0
            assert all(parameter.grad is not None for parameter in transformer_layers(network).parameters())
            if drop is not None:
                drop.detach()


def test_waits_are_found(material: Material) -> None:
    """The library's own GPT-2 does wait, and so does every copy that does not say otherwise."""
    family = family_of(material, "gpt")
    batch, ours = step_of(material, family, 64), network_of(material, family)
    library = transformers.GPT2LMHeadModel(ours.config).to("meta").train()
    with pytest.raises(RuntimeError, match="meta"):
        make_pass(family, library, batch, None, 64)
    with Copies() as copies:
        torch.ones(3).to("meta")
        torch.ones(3, device="meta").copy_(torch.ones(3))
        torch.tensor([1.0], device="meta")
        assert len(copies.waited) == copies.all >= 2


def test_the_body_is_the_library_s_to_the_bit(material: Material) -> None:
    family = family_of(material, "gpt")
    network: Any = family.build_model(material.study.scale.families["gpt"].model)
    library = transformers.GPT2LMHeadModel(network.config)
    library.load_state_dict(network.state_dict())
    for window in (None, 16):
        part = step_of(material, family, 64, window=window).part(slice(0, 4), "cpu")
        found = []
        for model in (network, library):
            torch.manual_seed(0)  # of dropout
            loss = family.loss_sums(model.train(), part)["loss"]
            found.append([loss, *torch.autograd.grad(loss, list(model.parameters()))])
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(*found, strict=True))


@pytest.mark.parametrize(
    ("name", "hardware"),
    [
        ("gpt", {}),
        pytest.param("bert", {}, marks=pytest.mark.slow),
        pytest.param("gpt", {"zero_stage": 1}, marks=pytest.mark.slow),
        pytest.param("gpt", {"zero_stage": 3}, marks=pytest.mark.slow),
    ],
)
def test_a_step_takes_its_losses_and_its_norm_to_the_host_once(
    material: Material, tmp_path: Path, name: str, hardware: dict[str, Any]
) -> None:
    """Also where DeepSpeed itself looks at the norm, in fp32."""
    run = material.training("composed", tmp_path, name, micro_batch=3, **hardware)
    process = run.start(tell_values)
    process.join()
    assert process.exitcode == 0, run.log
    told = [json.loads(line.removeprefix("VALUES ")) for line in run.log.splitlines() if line.startswith("VALUES ")]
    assert len(told) == len(run.metrics)
    for step in told:
        assert step.pop("passes") > 1
        assert step == {"in passes": 0, "sums": 1, "beside": 1}
