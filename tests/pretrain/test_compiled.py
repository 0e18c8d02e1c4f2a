"""Compiled layers: as few compilations as there are kinds of passes, the numbers of uncompiled ones, whole runs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from dataeff.errors import DataeffError
from dataeff.families import bert_network, gpt
from dataeff.files import read_json
from dataeff.pretrain import compiled
from dataeff.pretrain.engine import checkpoint_activations
from dataeff.study.types import Hardware, Model
from dataeff.token_drop import Route, TokenDrop, transformer_layers
from tests.pretrain.test_loop import assert_identical
from tests.pretrain.training import CHECKPOINT_EVERY, Material, Training, in_precision

LENGTH, VOCABULARY, LAYERS = 48, 64, 4
DROPPING = (1, 2)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Nothing compiled before; one thread, since the threads of small models wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
    torch.set_num_threads(threads)


def shape(dropout: float) -> Model:
    return Model(layers=LAYERS, hidden=16, heads=2, sequence_length=LENGTH, dropout=dropout, init_std=0.2)


def new_gpt(dropout: float = 0.0) -> nn.Module:
    return gpt.build_model(shape(dropout), vocabulary=VOCABULARY, eos_id=0)


def new_bert(dropout: float = 0.0) -> nn.Module:
    return bert_network.new_network(shape(dropout), vocabulary=VOCABULARY, pad_id=0)


def new_llama(dropout: float = 0.0) -> nn.Module:
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        initializer_range=0.2,
        attention_dropout=dropout,
    )
    return LlamaForCausalLM(config)


MODELS: dict[str, Callable[[float], nn.Module]] = {"gpt": new_gpt, "bert": new_bert, "llama": new_llama}


def loss(network: Any, rows: int, length: int, window: int | None = None, padded: bool = True) -> Tensor:
    """BERT's second row is padded by a quarter, if asked for."""
    tokens = torch.randint(5, VOCABULARY, (rows, length + 1), generator=torch.Generator().manual_seed(length))
    if not isinstance(network, bert_network.MegatronBertForPreTraining):
        return gpt.loss_sum(network, tokens, window)[0]
    lengths = torch.full((rows,), length)
    lengths[-1:] -= length // 4
    places = torch.arange(0, rows * length, 3)
    logits, order = network(tokens[:, :-1], torch.zeros_like(tokens[:, :-1]), lengths if padded else None, places)
    return logits.logsumexp(-1).sum() + order.logsumexp(-1).sum()


class Compiled:
    """A network with compiled layers and dropping ones among them, and how often it was compiled."""

    def __init__(
        self,
        make: Callable[[float], nn.Module],
        dropout: float,
        route: Route = "each_layer",
        backend: str = "eager",
    ) -> None:
        torch.manual_seed(1)
        self.network = make(dropout).train()
        self.drop = TokenDrop.attach(self.network, layers=DROPPING, seed=5, route=route)
        # What is a kind is nearly always decided before a backend makes code: "eager" makes none, which takes no time.
        compiled.compile_layers(self.network, "cpu", backend)
        self._before = compiled.compilations()

    @property
    def compilations(self) -> int:
        return compiled.compilations() - self._before

    def train(self, rows: int, length: int, kept: int, **more: Any) -> None:
        self.drop.set_step(3, kept=kept, rows_B=torch.arange(rows), rows=rows)
        loss(self.network, rows, length, **more).backward()

    def evaluate(self, rows: int, length: int, **more: Any) -> None:
        self.network.eval()
        with torch.no_grad():
            loss(self.network, rows, length, **more)
        self.network.train()


# --- compilations --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backend", "dropout"),
    [
        ("eager", 0.1),
        pytest.param("inductor", 0.0, marks=pytest.mark.slow),
        pytest.param("inductor", 0.1, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("name", MODELS)
def test_one_compilation_serves_all_layers_lengths_and_kept_tokens(name: str, backend: str, dropout: float) -> None:
    """One of several rows and one of one row, in training and in evaluation: four, however many shapes there are.

    Llama's layers get rotary embeddings that all rows share or, dropping, each row's own: that is one more.
    """
    more = 1 if name == "llama" else 0
    network = Compiled(MODELS[name], dropout, backend=backend)
    network.train(4, 48, 48)
    assert network.compilations == 1  # of four layers
    for rows, length in ((2, 40), (8, 33), (3, 8), (2, 2)):
        for kept in {2, length // 4 + 2, length - 1, length}:
            network.train(rows, length, min(kept, length))
    assert network.compilations == 1 + more
    for length, kept in ((48, 48), (48, 12), (31, 7), (9, 8), (2, 2)):
        network.train(1, length, kept)
    assert network.compilations == 2 + more
    for rows, length in ((4, 48), (2, 16), (7, 33)):
        network.evaluate(rows, length)
    network.evaluate(1, 48)
    network.evaluate(1, 20)
    assert network.compilations == 4 + more


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("make", [new_gpt, new_bert])
def test_sizes_that_are_equal_by_chance_are_not_taken_for_one(make: Callable[[float], nn.Module], backend: str) -> None:
    """As many positions and rows as values of a token at first, which are no symbol; then as many rows as heads."""
    network = Compiled(make, 0.0, backend=backend)
    for rows, length, kept in ((16, 16, 16), (16, 16, 2), (2, 40, 16), (16, 48, 16), (8, 8, 8), (3, 40, 11)):
        network.train(rows, length, kept)
    assert network.compilations == 1


def test_a_mask_is_a_kind_of_its_own() -> None:
    """Without padding BERT's layers get none; GPT's windows have one that rows share, until tokens are dropped."""
    bert = Compiled(new_bert, 0.0)
    for length in (48, 24):
        bert.train(4, length, 12, padded=True)
    assert bert.compilations == 1
    for length in (48, 24):
        bert.train(4, length, 12, padded=False)
    assert bert.compilations == 2
    torch._dynamo.reset()
    windowed = Compiled(new_gpt, 0.0)
    for length, kept in ((48, 48), (40, 10), (32, 32), (24, 7)):
        windowed.train(4, length, kept, window=8)
    assert windowed.compilations == 2


def test_dropped_rows_leave_one_or_several_or_none() -> None:
    """A single token, which stands for no rows, is not compiled."""
    network = Compiled(new_gpt, 0.0, route="samples")
    for step in range(12):
        network.drop.set_step(step, kept=12, rows_B=torch.arange(3), rows=8)
        loss(network.network, 3, 48).backward()
    assert network.compilations == 2


def test_too_many_kinds_are_an_error_and_not_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "KINDS_AT_MOST", 1)
    network = Compiled(new_gpt, 0.0)
    network.train(4, 48, 48)
    with pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit):
        network.train(1, 48, 48)


def test_names_weights_and_detaching_stay() -> None:
    network = new_gpt()
    names = list(network.state_dict())
    drop = TokenDrop.attach(network, layers=DROPPING, seed=5)
    compiled.compile_layers(network, "cpu", backend="aot_eager")
    assert list(network.state_dict()) == names
    drop.detach()
    assert ["forward" in vars(layer) for layer in transformer_layers(network)] == [True, False, False, True]


# --- the same numbers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "backend"),
    [("gpt", "aot_eager"), *(pytest.param(name, "inductor", marks=pytest.mark.slow) for name in MODELS)],
)
def test_losses_gradients_and_dropped_tokens_are_those_of_uncompiled_layers(name: str, backend: str) -> None:
    """With and without activation checkpointing; "inductor" makes the code that runs use."""
    torch.manual_seed(1)
    plain = MODELS[name](0.0).train()
    checkpointed = copy.deepcopy(plain)
    fast = copy.deepcopy(plain)
    checkpoint_activations(checkpointed)
    networks = {"plain": plain, "fast": fast, "checkpointed": checkpointed}
    drops = {key: TokenDrop.attach(network, layers=DROPPING, seed=5) for key, network in networks.items()}
    for key in ("fast", "checkpointed"):
        compiled.compile_layers(networks[key], "cpu", backend)
    layer = transformer_layers(fast)[1]
    seen: list[tuple[Tensor, Tensor]] = []
    layer.register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    for step, (rows, length, kept) in enumerate([(4, 48, 48), (3, 40, 10), (5, 17, 9)]):
        losses = {}
        for key, network in networks.items():
            drops[key].set_step(step, kept=kept, rows_B=torch.arange(rows))
            network.zero_grad()
            total = loss(network, rows, length)
            total.backward()
            losses[key] = total.item()
        for key in ("fast", "checkpointed"):
            assert losses[key] == pytest.approx(losses["plain"], rel=1e-5)
            assert_gradients_equal(networks[key], plain)
    before, after = seen[-1]
    after = after[0] if isinstance(after, tuple) else after
    gone = torch.ones(5, 17, dtype=torch.bool).scatter(1, drops["fast"].positions(1, 17), False)
    assert torch.equal(after[gone], before[gone])
    assert not torch.equal(after, before)


def assert_gradients_equal(found: nn.Module, expected: nn.Module) -> None:
    """Within 1e-5 of the largest gradient of the weight."""
    for (name, one), other in zip(found.named_parameters(), expected.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), name
        if one.grad is not None and other.grad is not None:
            assert (one.grad - other.grad).abs().max() <= 1e-5 * other.grad.abs().max() + 1e-7, name


# --- which passes are made before training -------------------------------------------------------------------


def test_a_pass_of_each_kind_is_the_largest_of_it() -> None:
    columns = {"sequence_length": np.array([16, 32, 64, 64, 64]), "kept_tokens": np.array([16, 16, 32, 48, 64])}
    fewest, most = np.array([1, 4, 4, 4, 1]), np.array([4, 4, 4, 4, 1])
    assert sorted(compiled.largest_passes(columns, fewest, most)) == [(0, 4), (3, 4), (4, 1)]
    windows = {**columns, "window": np.array([8, 8, 8, 64, 64])}
    assert sorted(compiled.largest_passes(windows, fewest, most)) == [(0, 1), (0, 4), (2, 4), (3, 4), (4, 1)]


def test_padding_is_a_kind_where_rows_say_their_length() -> None:
    part = {"tokens": torch.zeros(2, 8), "lengths": torch.tensor([8, 5])}
    assert [other["lengths"].tolist() for other in compiled.masked_and_whole(part)] == [[8, 8], [7, 7]]
    assert compiled.masked_and_whole({"tokens": part["tokens"]}) == [{"tokens": part["tokens"]}]


# --- what cannot be compiled ---------------------------------------------------------------------------------


def test_a_missing_compiler_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._inductor.config as inductor

    monkeypatch.setenv("CXX", "/no/such/compiler")
    monkeypatch.setattr(inductor.cpp, "cxx", (None, "/no/such/compiler"))
    with pytest.raises(DataeffError, match=r"needs a C\+\+ compiler, and '/no/such/compiler' was not found; install g"):
        compiled.check_compiler(torch.device("cpu"))


def test_stage_3_is_refused() -> None:
    with pytest.raises(ValidationError, match="compile true and zero_stage 3"):
        Hardware(compile=True, zero_stage=3)
    assert Hardware(compile=True, zero_stage=2).compile


# --- whole runs ----------------------------------------------------------------------------------------------


def nothing_compiled_later() -> None:
    """In a training's process: a compilation after the warm-up is an error."""
    warm_up = compiled.warm_up

    def then_refuse(trainer: Any) -> None:
        warm_up(trainer)
        torch.compiler.set_stance("fail_on_recompile")

    compiled.warm_up = then_refuse


def finished(run: Training, ranks: int = 1) -> Training:
    """With nothing compiled after the start."""
    if ranks > 1:
        return run.finish_ranks(ranks, nothing_compiled_later)
    process = run.start(nothing_compiled_later)
    process.join()
    assert process.exitcode == 0, run.log
    return run


def assert_near(found: Training, expected: Training) -> None:
    assert np.abs(found.losses - expected.losses).max() < 1e-4
    for here, there in zip(found.metrics, expected.metrics, strict=True):
        assert here.keys() == there.keys()
        assert here["kept_tokens"] == there["kept_tokens"]


@pytest.mark.slow
def test_a_run_compiles_before_its_first_step_and_learns_the_same(
    still: Material, one_process: Training, tmp_path: Path
) -> None:
    """Reshaped rows of several lengths, of which fewer and fewer tokens are dropped; also with ZeRO and two ranks."""
    run = finished(still.training("composed", tmp_path / "one", compile=True))
    assert_near(run, one_process)
    assert len({row["sequence_length"] for row in run.metrics}) > 3
    assert read_json(run.out / "timings.json")["startup_seconds"] > 1
    zero = still.training("composed", tmp_path / "zero", compile=True, zero_stage=2, micro_batch=3)
    assert_near(finished(zero, ranks=2), one_process)
    again = still.training("composed", tmp_path / "again", compile=True, zero_stage=1, activation_checkpointing=True)
    assert_near(finished(again, ranks=2), one_process)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt", "bert"])
def test_killed_a_run_with_dropout_ends_identically(material: Material, tmp_path: Path, family: str) -> None:
    whole = finished(material.training("composed", tmp_path / "whole", family, compile=True))
    killed = material.training("composed", tmp_path / "killed", family, compile=True)
    killed.kill_after(CHECKPOINT_EVERY + 2)
    assert_identical(finished(killed), whole)
    assert "kinds of a layer's pass compiled in" in killed.log


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("family", ["gpt", "bert"])
def test_killed_with_all_at_once_a_run_ends_identically(
    material: Material, tmp_path: Path, family: str, ranks: int
) -> None:
    """bfloat16, compiled layers, recomputed activations, dropout, a curriculum and random-LTD, in one run."""

    def new(name: str) -> Training:
        run = material.training("composed", tmp_path / name, family, compile=True, activation_checkpointing=True)
        return in_precision(run, "bf16")

    whole, killed = finished(new("whole"), ranks), new("killed")
    kept = [row["kept_tokens"] / row["sequence_length"] for row in whole.metrics]
    assert min(kept) < 1
    started = killed.start_ranks(ranks)
    started.wait_for_rows(CHECKPOINT_EVERY + 2)
    started.kill()
    assert killed.checkpoints
    assert_identical(finished(killed, ranks), whole)
    assert "continues after step" in killed.log


@pytest.mark.slow
def test_micro_batches_that_are_found_need_no_further_compilation(still: Material, tmp_path: Path) -> None:
    run = finished(still.training("composed", tmp_path / "auto", compile=True, micro_batch="auto"))
    assert "micro_batch auto" in run.log
