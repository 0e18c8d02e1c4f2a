"""Shares of a peak: of known devices only, and of the operations that the plan's steps take."""

from __future__ import annotations

import pytest
import torch

from dataeff.files import read_json
from dataeff.inquiry.flops import training_flops
from dataeff.inquiry.gpus import GPUS, Precision, gpu_of_driver
from dataeff.plan import TrainingPlan
from dataeff.pretrain.utilisation import Device, Utilisation, device_of, named_device
from dataeff.study.specs import PretrainSpec, read_spec
from tests.pretrain.training import Material, Training

VOCABULARY = 384
DEVICE = Device("a card of 10 GFLOP a second", 0.01)


@pytest.mark.parametrize(
    ("driver", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100-PCIe"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA A100 80GB PCIe", "A100"),
        ("Tesla V100-SXM2-16GB", "V100"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA GeForce RTX 4090", "RTX-4090"),
        # Relatives with another peak.
        ("NVIDIA H100 NVL", None),
        ("NVIDIA L40", None),
        ("Tesla V100-PCIE-16GB", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("AMD Instinct MI300X", None),
    ],
)
def test_cards_by_the_name_that_their_driver_gives(driver: str, name: str | None) -> None:
    found = gpu_of_driver(driver)
    assert (found.name if found else None) == name


@pytest.mark.parametrize(
    ("driver", "precision", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", "bf16", 312.0),
        ("NVIDIA A100-SXM4-80GB", "fp16", 312.0),
        ("NVIDIA A100-SXM4-80GB", "fp32", 19.5),
        ("Tesla V100-SXM2-16GB", "fp16", 125.0),
        ("Tesla V100-SXM2-16GB", "bf16", None),
        ("NVIDIA B200", "fp32", None),
        ("some card", "bf16", None),
    ],
)
def test_the_peak_is_the_precision_s_and_none_is_made_up(driver: str, precision: Precision, peak: float | None) -> None:
    device = named_device(driver, precision)
    assert device.peak_teraflops == peak
    assert (device.unknown is None) == (peak is not None)


def test_a_cpu_has_none() -> None:
    assert device_of(torch.device("cpu"), "fp32") == Device("cpu", None, "no peak is known of a CPU")
    assert all(gpu.fp32_teraflops is None or gpu.fp32_teraflops < gpu.peak_teraflops for gpu in GPUS.values())


@pytest.mark.parametrize("variant", ["baseline", "composed", "cl_seqres"])
def test_shares_are_of_the_plan_s_operations(material: Material, variant: str) -> None:
    name = f"gpt-{variant}-100-s1234"
    spec = read_spec(material.scale / f"specs/pretrain/{name}.yaml", PretrainSpec)
    table = TrainingPlan.load(material.scale / "plan" / name).steps
    whole = training_flops("gpt", spec.model, VOCABULARY, len(spec.dropped_layers), table, recompute=True)
    found = Utilisation.of_run(spec, table, VOCABULARY, DEVICE, 2, recompute=True)
    facts = found.facts(100.0)
    assert facts["hardware_flops"] == pytest.approx(whole.total)
    assert facts["model_flops"] == pytest.approx(whole.total - whole.recomputed)
    # Two cards of 10^10 a second.
    assert facts["mfu"] == pytest.approx(facts["model_flops"] / 100 / 2e10)
    assert facts["hfu"] == pytest.approx(facts["hardware_flops"] / 100 / 2e10)
    assert "mfu_unknown" not in facts
    plain = Utilisation.of_run(spec, table, VOCABULARY, DEVICE, 2, recompute=False).facts(100.0)
    assert plain["hfu"] == plain["mfu"] == facts["mfu"]
    speeds = [found.speed(step, 1, 2.0).model_teraflops for step in range(len(table))]
    assert sum(speeds) * 2e12 == pytest.approx(facts["model_flops"])
    assert found.speed(3, 4, 2.0).model_teraflops == pytest.approx(sum(speeds[3:7]))


def test_dropped_tokens_are_no_work(material: Material) -> None:
    """The composed run's layers see fewer tokens: fewer operations for the same effective tokens and more steps."""
    flops = {}
    for variant in ("baseline", "ltd"):
        name = f"gpt-{variant}-100-s1234"
        spec = read_spec(material.scale / f"specs/pretrain/{name}.yaml", PretrainSpec)
        table = TrainingPlan.load(material.scale / "plan" / name).steps
        found = Utilisation.of_run(spec, table, VOCABULARY, DEVICE, 1, recompute=False).model_flops
        flops[variant] = found[0], found[-1]
    assert flops["ltd"][0] < 0.9 * flops["baseline"][0]
    assert flops["ltd"][1] == flops["baseline"][1]  # all tokens are kept at the end


def test_a_run_on_a_cpu_says_why_there_is_no_share(undisturbed: dict[str, Training]) -> None:
    facts = read_json(undisturbed["composed"].out / "timings.json")
    found = facts["utilisation"]
    assert found["device"] == "cpu"
    assert found["mfu"] is found["hfu"] is found["peak_teraflops"] is None
    assert found["mfu_unknown"] == "no peak is known of a CPU"
    speed = found["model_flops"] / facts["training_seconds"] / 1e12
    assert found["model_teraflops_per_second"] == pytest.approx(speed, rel=0.01)
    assert found["hardware_flops"] == found["model_flops"]
    assert "MFU" not in undisturbed["composed"].log
