"""What the engine is made of, and how its compilation survives kill -9."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest

from dataeff.families import gpt
from dataeff.pretrain.engine import _compiling, engine_config, make_optimizer, parameter_groups
from dataeff.study.specs import pretrain_spec
from dataeff.study.types import Adam, Hardware, Model
from tests.factory import load, own_scale

MODEL = Model(layers=2, hidden=16, heads=2, sequence_length=32)


def test_biases_and_one_dimensional_parameters_are_not_decayed() -> None:
    network = gpt.build_model(MODEL, vocabulary=128, eos_id=0)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    decayed, plain = parameter_groups(network, 0.1)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    assert len(decayed["params"]) + len(plain["params"]) == len(names)
    assert {names[id(parameter)].rsplit(".", 1)[1] for parameter in decayed["params"]} == {"weight"}
    assert "transformer.wte.weight" in {names[id(parameter)] for parameter in decayed["params"]}
    for parameter in plain["params"]:
        name = names[id(parameter)]
        assert name.endswith(".bias") or ".ln_" in name


def test_the_optimizer_is_the_spec_s() -> None:
    adam = Adam(beta1=0.8, beta2=0.9, epsilon=1e-7, weight_decay=0.2)
    optimizer = make_optimizer(gpt.build_model(MODEL, vocabulary=128, eos_id=0), adam)
    for group in optimizer.param_groups:
        assert (group["betas"], group["eps"], group["lr"]) == ((0.8, 0.9), 1e-7, 0.0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_deepspeed_s_configuration(precision: str) -> None:
    study = load(own_scale(families={"gpt": {"precision": precision, "adam": {"clip": 0.5}}}))
    found = engine_config(pretrain_spec(study, study.runs[0]), Hardware(micro_batch=4, zero_stage=2), 3)
    assert found["train_batch_size"] == 12
    assert found["zero_optimization"] == {"stage": 2}
    assert found["gradient_clipping"] == 0.5
    assert ("bf16" in found) == (precision == "bf16")
    assert found["managed_gradient_accumulation"] is False  # the loop says where a step ends


@pytest.mark.parametrize("below", ["deepspeed_shm_comm", "py311_cpu/deepspeed_shm_comm"])
def test_a_dead_compiler_s_lock_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], below: str
) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setenv("PATH", "/usr/bin")
    lock = tmp_path / below / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    with _compiling():
        assert not lock.exists()
        assert os.environ["PATH"] == f"{Path(sys.executable).parent}:/usr/bin"
    assert f"removing {lock}" in capsys.readouterr().out
    with _compiling():
        assert os.environ["PATH"] == f"{Path(sys.executable).parent}:/usr/bin"


@pytest.mark.parametrize("rank", ["0", "1"])
def test_every_rank_waits_for_a_living_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: str) -> None:
    """Otherwise one rank would take the lock file that another compiles under for a dead one's."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setenv("LOCAL_RANK", rank)
    lock = tmp_path / "deepspeed_shm_comm/lock"
    lock.parent.mkdir()
    seen = []

    def compile_too() -> None:
        with _compiling():
            seen.append(lock.exists())

    other = threading.Thread(target=compile_too)
    with _compiling():
        lock.touch()
        other.start()
        other.join(0.2)
        assert other.is_alive()
        assert lock.exists()
        lock.unlink()
    other.join()
    assert seen == [False]
