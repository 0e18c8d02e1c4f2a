"""What SLURM is asked for, from a scale's hardware and the site's variables."""

from __future__ import annotations

from typing import Any

import pytest

from dataeff.errors import DataeffError
from dataeff.study.site import Site, job, model_job, training_job, training_step
from dataeff.study.types import Hardware
from tests.factory import config, load

HERE = Site.of({"DATAEFF_SLURM_PARTITION": "gpu", "DATAEFF_SLURM_GPU_TYPE": "h100", "HOME": "/root"})


def memory(resources: dict[str, Any], attempt: int) -> int:
    found = resources["mem_mb"](None, attempt=attempt)
    assert isinstance(found, int)
    return found


def test_what_is_absent_or_empty_is_left_to_slurm() -> None:
    assert Site.of({}) == Site.of({"DATAEFF_SLURM_ACCOUNT": ""}) == Site()
    assert Site().default_resources() == {"nodes": 1}
    assert "slurm_partition" not in training_job(Hardware(gpus=1), site=Site())


def test_texts_reach_snakemake_quoted() -> None:
    site = Site.of({"DATAEFF_SLURM_CPU_PARTITION": "cpu-long", "DATAEFF_SLURM_ACCOUNT": "1234"})
    assert site.default_resources() == {"nodes": 1, "slurm_partition": "'cpu-long'", "slurm_account": "'1234'"}


def test_jobs_without_gpus_have_their_partition() -> None:
    assert HERE.default_resources()["slurm_partition"] == "'gpu'"
    both = Site.of({"DATAEFF_SLURM_PARTITION": "gpu", "DATAEFF_SLURM_CPU_PARTITION": "cpu"})
    assert both.default_resources()["slurm_partition"] == "'cpu'"
    assert model_job(Hardware(gpus=1), 100, site=both)["slurm_partition"] == "gpu"
    assert "slurm_partition" not in model_job(Hardware(), 100, site=both)
    assert (both.partition_of(Hardware(gpus=1)), both.partition_of(Hardware())) == ("gpu", "cpu")
    assert (HERE.partition_of(Hardware()), Site().partition_of(Hardware(gpus=1))) == ("gpu", None)


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("MINUTES", "24h", "DATAEFF_SLURM_MINUTES is '24h'; a whole number is needed"),
        ("MINUTES", "0", "DATAEFF_SLURM_MINUTES is '0'; a whole number is needed"),
        ("PARTITON", "gpu", "unknown variable 'DATAEFF_SLURM_PARTITON'; did you mean 'DATAEFF_SLURM_PARTITION'"),
    ],
)
def test_mistakes_are_named(name: str, text: str, told: str) -> None:
    with pytest.raises(DataeffError, match=told):
        Site.of({f"DATAEFF_SLURM_{name}": text})


def test_memory_grows_with_the_attempt_up_to_the_site_s() -> None:
    assert [memory(job(Hardware(), 1500, site=Site()), attempt) for attempt in (1, 2, 3)] == [2000, 3000, 4000]
    small = Site.of({"DATAEFF_SLURM_MEMORY_MB": "2500"})
    assert [memory(job(Hardware(), 1500, site=small), attempt) for attempt in (1, 2, 3)] == [2000, 2500, 2500]


def test_a_time_limit_is_the_scale_s_or_the_partition_s() -> None:
    assert job(Hardware(minutes=100), 1, site=Site())["runtime"] == 100
    limited = Site.of({"DATAEFF_SLURM_MINUTES": "30"})
    assert job(Hardware(minutes=100), 1, site=limited)["runtime"] == 30
    assert training_job(Hardware(minutes=100), site=limited)["slurm_extra"] == "--signal=USR1@450"
    assert training_job(Hardware(minutes=1440), site=Site())["slurm_extra"] == "--signal=USR1@600"


def test_the_papers_scale_asks_for_eight_nodes_of_eight_gpus() -> None:
    hardware = load(config(scale="paper")).hardware
    resources = training_job(hardware, site=HERE)
    assert (resources["nodes"], resources["tasks"], resources["gpu"]) == (8, 8, 64)
    assert resources["tasks_per_gpu"] == 0
    assert resources["gpu_model"] == "h100"
    assert resources["slurm_extra"] == "--signal=USR1@600 --gpus-per-node=h100:8"
    assert memory(resources, 1) == 8 * 64000 + 500
    evaluation = model_job(hardware, 2500, site=HERE)
    assert evaluation["gpu"] == 1
    assert memory(evaluation, 1) == 64000 + 500
    assert memory(job(hardware, 1500, site=HERE), 1) == 16000 + 500
    assert training_step(hardware).endswith("--nodes 8 --processes 8 --cpus 64")


def test_one_gpu_and_none() -> None:
    one = training_job(load(config(scale="one_gpu")).hardware, site=Site())
    assert (one["nodes"], one["gpu"]) == (1, 1)
    for scale in ("smoke", "tiny"):
        resources = training_job(load(config(scale=scale)).hardware, site=HERE)
        assert not {"gpu", "gpu_model", "slurm_partition"} & set(resources)


def test_each_rank_has_a_gpu() -> None:
    with pytest.raises(ValueError, match="gpus 4 and processes 8: each rank has one GPU, so 8 or 0"):
        Hardware(processes=8, gpus=4)
