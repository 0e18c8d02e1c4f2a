"""The examples and the documentation's snippets run where neither Snakemake nor DeepSpeed is installed."""

import os
import re
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from dataeff.library import make_plan
from tests.factory import ROOT

EXAMPLES = ["plain_torch", "hugging_face_trainer"]
NOT_INSTALLED = """
import runpy, sys
from importlib.machinery import PathFinder

find = PathFinder.find_spec.__func__
hidden = {"snakemake", "deepspeed"}
PathFinder.find_spec = classmethod(lambda *args: None if args[1].split(".")[0] in hidden else find(*args))
for name in hidden:
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{name} can be imported: this test would show nothing")
"""


def run_without_the_study(code: str, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", NOT_INSTALLED + code],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def test_the_library_is_imported_without_torch_or_the_study() -> None:
    heavy = "{'torch', 'transformers', 'pandas', 'pyarrow', 'matplotlib', 'tokenizers', 'lm_eval', 'gigatoken'}"
    out = run_without_the_study(f"import dataeff.library; print(sorted({heavy} & set(sys.modules)))")
    assert out == "[]\n"


@pytest.mark.parametrize("name", [EXAMPLES[0], *(pytest.param(name, marks=pytest.mark.slow) for name in EXAMPLES[1:])])
def test_an_example_learns_with_and_without(name: str) -> None:
    out = run_without_the_study(
        f"sys.path.insert(0, {str(ROOT / 'examples')!r})\nrunpy.run_module({name!r}, {{}}, '__main__')"
    )
    lines = re.findall(r"^(\w+): (\d+) steps, loss ([\d.]+) at first, held-out loss ([\d.]+) at the end$", out, re.M)
    assert [line[0] for line in lines] == ["without", "with"]
    assert 40 == int(lines[0][1]) < int(lines[1][1])
    for _, _, first, last in lines:
        assert 5 < float(first) < 6  # ln 256 is 5.5
        assert float(last) < 3.6


@pytest.mark.parametrize("name", [EXAMPLES[0], *(pytest.param(name, marks=pytest.mark.slow) for name in EXAMPLES[1:])])
def test_an_example_adds_a_dozen_lines(name: str) -> None:
    code = (ROOT / "examples" / f"{name}.py").read_text().split('"""', 2)[2]
    assert 8 <= len(re.findall("# [+]$", code, re.M)) <= 12


def test_a_model_with_rotary_positions_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    example = runpy.run_path(str(ROOT / "examples/plain_torch.py"), run_name="example")
    torch.manual_seed(0)
    sizes = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=256, num_key_value_heads=2, max_position_embeddings=64, **sizes))
    samples, heldout = example["read_samples"]()
    plan = make_plan(
        samples=len(samples),
        sequence_length=64,
        batch_size=16,
        train_tokens=25 * 16 * 64,
        layers=3,
        curriculum={"seqlen": example["GROWING"]},
        token_drop=example["DROPPED"],
        learning_rate={"peak": 5e-3, "minimum": 5e-4},
        seed=1,
    )
    before = float(example["loss_of"](model.eval(), heldout).detach())
    losses = example["train"](model, samples, plan)
    after = float(example["loss_of"](model.eval(), heldout).detach())
    assert losses[-1] < losses[0] - 1
    assert after < before - 1


def test_the_documentations_snippets_run(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/library.md").read_text(), re.M | re.S)
    assert len(blocks) == 4
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    ranks = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    code = f"folder = {str(tmp_path)!r}\n" + "\n".join(blocks) + "\nprint(trainer.state.global_step, len(plan))"
    out = run_without_the_study(code, **ranks)
    assert out.splitlines()[-1] == "25 25"
