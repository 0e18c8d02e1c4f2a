"""The installed DeepSpeed takes the exported configuration, and its schedulers give our plan's columns from it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataeff.analyze.deepspeed_format import write_metric
from dataeff.export import deepspeed as export
from dataeff.inquiry.options import deepspeed_arguments
from dataeff.plan import steps_table
from dataeff.pretrain.engine import compile_communication
from dataeff.study.outside import find_run
from dataeff.study.specs import plan_spec
from tests.analyze.native_index import write_native
from tests.inquiry.asking import Asked

pytest.importorskip("deepspeed")

GPT = ["baseline", "cl_seqtru", "cl_seqres", "cl_voc", "cl_seqtru_voc", "cl_seqres_voc", "ltd", "composed"]
SAMPLES = 3000


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Asked:
    return Asked(deepspeed_arguments, export.run, capsys)


@pytest.fixture(scope="module")
def group() -> Iterator[Any]:
    """A process group of this process alone, without any port."""
    import torch.distributed
    from deepspeed import comm

    compile_communication()  # or DeepSpeed compiles it once more, in torch's own folder
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "LOCAL_RANK", "0")
        comm.init_distributed(dist_backend="gloo")
        yield torch.distributed.group.WORLD
    torch.distributed.destroy_process_group()


def exported(ask: Asked, run: str, tmp_path: Path, *words: str, scale: str = "tiny") -> dict[str, Any]:
    ask("--run", run, "--out", str(tmp_path / "out"), *words, scale=scale)
    content: dict[str, Any] = json.loads((tmp_path / "out/ds_config.json").read_text())
    return content


def columns(ask: Asked, run: str, scale: str = "tiny") -> Any:
    asked = find_run(ask.parse("--run", run, "--out", "unused", scale=scale), run)
    return steps_table(plan_spec(asked.study, asked.run))


def parsed(config: dict[str, Any]) -> dict[str, Any]:
    """What DeepSpeed itself makes of the data_efficiency section."""
    from deepspeed.runtime.data_pipeline.config import get_data_efficiency_config

    found: dict[str, Any] = get_data_efficiency_config(config)
    return found


def metrics_of(config: dict[str, Any]) -> dict[str, Any]:
    curriculum = parsed(config)["data_sampling"]["curriculum_learning"]
    found: dict[str, Any] = curriculum["curriculum_metrics"] if curriculum["enabled"] else {}
    return found


def difficulties(metric: dict[str, Any], steps: np.ndarray) -> list[int]:
    from deepspeed.runtime.data_pipeline.curriculum_scheduler import CurriculumScheduler

    scheduler = CurriculumScheduler(metric)
    return [scheduler.update_difficulty(int(step) + 1) for step in steps]


def kept_tokens(config: dict[str, Any], steps: np.ndarray) -> list[int]:
    from deepspeed.runtime.data_pipeline.data_routing.scheduler import RandomLTDScheduler

    random_ltd = parsed(config)["data_routing"]["random_ltd"]
    scheduler = RandomLTDScheduler({**random_ltd, "global_batch_size": config["train_batch_size"]})
    found = []
    for step in steps:
        scheduler.update_seq(int(step))
        found.append(scheduler.get_current_seq())
    return found


def check_columns(config: dict[str, Any], table: Any, steps: np.ndarray) -> set[str]:
    """Compares what the exported schedules say at `steps` with the table; the names of what was compared."""
    names = {
        "seqlen_truncate": "sequence_length",
        "seqlen_reshape": "sequence_length",
        "voc": "vocab_rarity_percentile",
    }
    names |= {"seqlenvocabrarity": "seqlen_vocab_rarity_percentile", "seqlen": "seqlen_percentile"}
    compared = set()
    for name, metric in metrics_of(config).items():
        assert difficulties(metric, steps) == table[names[name]].to_numpy()[steps].tolist()
        compared.add(name)
    if parsed(config)["data_routing"]["random_ltd"]["enabled"]:
        length = table["sequence_length"].to_numpy()[steps]
        assert (
            np.minimum(kept_tokens(config, steps), length).tolist() == table["kept_tokens"].to_numpy()[steps].tolist()
        )
        compared.add("random_ltd")
    return compared


@pytest.mark.parametrize("variant", GPT)
def test_every_step_of_a_tiny_run(ask: Asked, tmp_path: Path, variant: str) -> None:
    run = f"gpt-{variant}-50-s1234"
    config, table = exported(ask, run, tmp_path), columns(ask, run)
    expected = {"baseline": set(), "ltd": {"random_ltd"}, "composed": {"random_ltd", "seqlen_truncate", "voc"}}
    compared = check_columns(config, table, np.arange(len(table)))
    assert compared == expected.get(variant, compared)
    assert compared or variant == "baseline"


@pytest.mark.parametrize(
    ("run", "compared"),
    [
        ("gpt-composed-67-s1234", {"random_ltd", "seqlen_truncate", "voc"}),
        ("gpt-cl_seqres-100-s1234", {"seqlen_reshape"}),
        ("bert-baseline-100-s1234", set()),
        ("bert-cl_seqtru-100-s1234", {"seqlen_truncate"}),
        ("bert-cl_seqreo-100-s1234", {"seqlen"}),
        ("bert-cl_voc-100-s1234", {"voc"}),
        ("bert-cl_seqtru_voc-67-s1234", {"seqlen_truncate", "voc"}),
        ("bert-cl_seqreo_voc-100-s1234", {"seqlenvocabrarity"}),
        ("bert-ltd-67-s1234", {"random_ltd"}),
        ("bert-ltd_no_dropout-100-s1234", {"random_ltd"}),
        ("bert-composed-50-s1234", {"random_ltd", "seqlen_truncate", "voc"}),
    ],
)
def test_steps_at_paper_scale(ask: Asked, tmp_path: Path, run: str, compared: set[str]) -> None:
    table = columns(ask, run, "paper")
    steps = np.unique(np.concatenate([np.arange(300), np.linspace(0, len(table) - 1, 3000).astype(np.int64)]))
    assert check_columns(exported(ask, run, tmp_path, scale="paper"), table, steps) == compared


# The released scripts' constants, at 100, 67 and 50% of the data.
@pytest.mark.parametrize(
    ("family", "curriculum", "drop", "length", "rarity", "kept", "model"),
    [
        ("gpt", [110_000, 73_000, 55_000], [200_000, 133_333, 100_000], (80, 2048), (1, 100), (128, 2048), "decoder"),
        (
            "bert",
            [960_000, 640_000, 480_000],
            [2_000_000, 1_340_000, 1_000_000],
            (128, 512),
            (5, 100),
            (128, 512),
            "encoder",
        ),
    ],
)
def test_published_constants(
    ask: Asked,
    tmp_path: Path,
    family: str,
    curriculum: list[int],
    drop: list[int],
    length: tuple[int, int],
    rarity: tuple[int, int],
    kept: tuple[int, int],
    model: str,
) -> None:
    for percent, steps, drop_steps in zip((100, 67, 50), curriculum, drop, strict=True):
        config = exported(ask, f"{family}-composed-{percent}-s1234", tmp_path, scale="paper")
        metrics = config["data_efficiency"]["data_sampling"]["curriculum_learning"]["curriculum_metrics"]
        truncate, voc = metrics["seqlen_truncate"], metrics["voc"]
        assert truncate["schedule_config"] == {"total_curriculum_step": steps, "difficulty_step": 8, "root_degree": 1}
        assert voc["schedule_config"] == {"total_curriculum_step": steps, "difficulty_step": 1, "root_degree": 2}
        assert (truncate["min_difficulty"], truncate["max_difficulty"]) == length
        assert (voc["min_difficulty"], voc["max_difficulty"]) == rarity
        assert (truncate["difficulty_type"], truncate["clustering_type"]) == ("value", "single_cluster")
        assert (voc["difficulty_type"], voc["clustering_type"]) == ("percentile", "schedule_based")
        ltd = config["data_efficiency"]["data_routing"]["random_ltd"]
        assert ltd["random_ltd_schedule"]["schedule_config"] == {"require_steps": drop_steps, "seq_per_step": 16}
        assert (ltd["random_ltd_schedule"]["min_value"], ltd["random_ltd_schedule"]["max_value"]) == kept
        assert (ltd["total_layer_num"], ltd["random_ltd_layer_num"], ltd["model_type"]) == (24, 22, model)
        assert ltd["random_ltd_layer_id"] == list(range(1, 23))
        assert config["fp16"]["enabled"]
        assert config["data_efficiency"]["seed"] == 1234


def test_the_batch_is_what_deepspeed_checks(ask: Asked, tmp_path: Path, group: Any) -> None:
    from deepspeed.runtime.config import DeepSpeedConfig

    words = ["--gpus", "1", "--micro-batch", "16"]
    for run in ("gpt-composed-100-s1234", "bert-composed-100-s1234", "gpt-baseline-100-s1234"):
        config = DeepSpeedConfig(exported(ask, run, tmp_path, *words, scale="paper"))
        batch = config.train_batch_size
        assert batch == config.train_micro_batch_size_per_gpu * config.gradient_accumulation_steps
        assert config.data_efficiency_enabled == ("baseline" not in run)
        assert config.gradient_clipping == 1.0


@pytest.mark.parametrize("variant", ["baseline", "composed"])
def test_an_engine_starts_from_it(ask: Asked, tmp_path: Path, group: Any, variant: str) -> None:
    import deepspeed
    import torch

    from dataeff.pretrain.engine import compile_communication

    compile_communication()
    config = exported(ask, f"gpt-{variant}-50-s1234", tmp_path)
    model = torch.nn.Linear(4, 4)
    optimizer = torch.optim.AdamW(model.parameters())
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    assert engine.train_batch_size() == 8
    assert engine.data_efficiency_enabled() == engine.random_ltd_enabled() == (variant == "composed")
    assert engine.curriculum_learning_enabled() == (variant == "composed")


def test_deepspeeds_sampler_draws_from_our_pools(ask: Asked, tmp_path: Path, group: Any) -> None:
    """From the exported files alone: the ids of each batch are among the easiest that the plan's percentile admits."""
    from deepspeed.runtime.data_pipeline.data_sampling.data_sampler import DeepSpeedDataSampler

    values = np.random.default_rng(2).permutation(SAMPLES)
    write_native(tmp_path / "native", "vocab_rarity", values)
    write_metric(tmp_path / "native", tmp_path / "own/vocab_rarity")
    run = "gpt-composed-50-s1234"
    config, table = exported(ask, run, tmp_path, "--index-dir", str(tmp_path / "own")), columns(ask, run)
    sampler = DeepSpeedDataSampler(parsed(config), SAMPLES, 8, 0, 1, group, 1, 0)
    percentiles = table["vocab_rarity_percentile"].to_numpy()
    for step, ids in zip(range(60), sampler, strict=False):
        assert len(ids) == 8
        assert values[ids].max() < (SAMPLES // 100) * percentiles[step]
        assert sampler.current_difficulties["seqlen_truncate"] == table["sequence_length"].iloc[step]
