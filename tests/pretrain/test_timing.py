"""Where a run's seconds go: parts that add up to their step, collectives, and an account that leaves nothing out."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dataeff.files import read_json
from dataeff.pretrain.timing import (
    BESIDE,
    PARTS,
    Account,
    Beside,
    DeviceClock,
    Part,
    StepClock,
    StepTimes,
    row_of,
    time_collectives,
)
from tests.pretrain.training import Material, Training

PAUSE = 0.02
CLOSE = 0.004
"""Seconds. What pauses take is measured: a busy machine makes them longer, not the looks at the clock between them."""


def pause(count: int = 1) -> float:
    """Some pauses; what they took."""
    begun = time.monotonic()
    time.sleep(count * PAUSE)
    return time.monotonic() - begun


class Backend:
    """A communication backend that only takes its time; `taken` says how much."""

    def __init__(self) -> None:
        self.taken = 0.0

    def all_reduce(self, values: list[float], async_op: bool = False) -> Handle | None:
        if async_op:
            return Handle(self)
        self.taken += pause()
        return None

    def get_rank(self) -> int:
        return 3


class Handle:
    def __init__(self, backend: Backend) -> None:
        self.backend, self.done = backend, False

    def wait(self) -> bool:
        self.backend.taken += pause()
        self.done = True
        return True


def test_parts_are_what_lies_between_the_looks_at_the_clock_and_add_up() -> None:
    clock = StepClock()
    pause()  # before the step
    clock.start()
    taken: dict[Part, float] = dict.fromkeys(PARTS, 0.0)
    laps: list[tuple[Part, int]] = [("data", 1), ("forward", 3), ("backward", 2), ("forward", 1)]
    for part, count in laps:
        taken[part] += pause(count)
        clock.lap(part)
    times = clock.stop()
    assert times.parts == pytest.approx(taken, abs=CLOSE)
    assert sum(times.parts.values()) == pytest.approx(times.seconds, abs=1e-9)
    clock.start()
    assert clock.stop().seconds < PAUSE


def test_drawing_the_ids_is_part_of_the_step() -> None:
    taken = []

    def drawn() -> Iterator[int]:
        for number in range(3):
            taken.append(pause())
            yield number

    clock, found = StepClock(), []
    for number in clock.steps(drawn()):
        clock.lap("data")
        found.append((number, clock.stop().parts["data"]))
        pause(2)  # what comes between two steps
    assert [number for number, _ in found] == [0, 1, 2]
    assert [seconds for _, seconds in found] == pytest.approx(taken, abs=CLOSE)


def test_collectives_are_taken_out_of_the_part_they_happen_in() -> None:
    clock, backend = StepClock(), Backend()
    time_collectives(backend, clock)
    assert backend.get_rank() == 3
    clock.start()
    backend.all_reduce([1.0])
    own = pause()
    handle = backend.all_reduce([1.0], async_op=True)
    assert handle is not None
    assert not handle.done
    assert handle.wait() is True
    assert handle.done
    clock.lap("backward")
    times = clock.stop()
    assert times.parts["communication"] == pytest.approx(backend.taken, abs=CLOSE)
    assert times.parts["backward"] == pytest.approx(own, abs=CLOSE)
    assert sum(times.parts.values()) == pytest.approx(times.seconds, abs=1e-9)


def test_what_collectives_take_outside_of_steps_is_no_part_of_one() -> None:
    clock = StepClock()
    clock.communicated(5.0)  # of a checkpoint
    clock.start()
    assert clock.stop().parts["communication"] == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_s_laps_add_up_to_the_step() -> None:
    clock = DeviceClock()
    matrix = torch.randn(4096, 4096, device="cuda")
    for _ in range(3):
        clock.start()
        time.sleep(PAUSE)
        clock.lap("data")
        for _ in range(20):
            matrix @ matrix
        clock.lap("forward")
        times = clock.stop()
    assert times.parts["data"] >= PAUSE
    assert times.parts["forward"] > 0.001
    assert sum(times.parts.values()) == pytest.approx(times.seconds, abs=1e-6)


def test_what_lies_beside_the_steps_leaves_nothing_out() -> None:
    started, step = time.monotonic(), StepClock()
    beside = Beside()
    taken = {"startup": pause()}
    beside.begin(started)
    found = [beside.take(0.0)]
    with beside.timed("checkpoint"):
        taken["checkpoint"] = pause()
    step.start()
    pause()
    seconds = step.stop().seconds
    taken["other"] = pause()  # in nobody's name
    found.append(beside.take(seconds))
    taken["export"] = pause()
    found.append(beside.take(0.0, rest="export"))
    in_all = {name: sum(part.get(name, 0.0) for part in found) for name in taken}
    assert in_all == pytest.approx(taken, abs=CLOSE)
    assert "checkpoint" not in found[0]
    assert set(found[1]) == {"checkpoint", "other"}
    assert sum(in_all.values()) + seconds == pytest.approx(time.monotonic() - started, abs=CLOSE)


Parts = st.fixed_dictionaries({name: st.floats(0, 100) for name in PARTS})
Between = st.dictionaries(st.sampled_from(BESIDE), st.floats(0, 100))


@given(st.lists(st.tuples(Parts, Between), min_size=1, max_size=20))
def test_an_account_adds_up(steps: list[tuple[dict[str, float], dict[str, float]]]) -> None:
    account = Account()
    for number, (parts, between) in enumerate(steps, start=1):
        times = StepTimes(sum(parts.values()) + 1e-3, {**parts, "other": parts["other"] + 1e-3})  # type: ignore[dict-item]
        account.add(json.loads(json.dumps(row_of(number, times, between))))
    facts = account.facts()
    assert account.steps == len(steps)
    assert facts["starts"] == sum("startup" in between for _, between in steps)
    close = {"abs": 1e-4 * len(steps)}
    for parts in (facts["step_parts"], facts["run_parts"]):
        assert sum(part["share"] for part in parts.values()) == pytest.approx(1, abs=1e-4)
    assert sum(part["seconds"] for part in facts["step_parts"].values()) == pytest.approx(account.step_seconds, **close)
    assert sum(part["seconds"] for part in facts["run_parts"].values()) == pytest.approx(account.run_seconds, **close)


def test_steps_that_an_earlier_version_timed_are_other() -> None:
    account = Account()
    account.add({"step": 1, "seconds": 2.0})
    assert account.parts["other"] == account.step_seconds == account.run_seconds == 2.0


# --- of runs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["baseline", "composed"])
def test_a_run_s_parts_add_up(undisturbed: dict[str, Training], variant: str) -> None:
    facts = read_json(undisturbed[variant].out / "timings.json")
    steps, run = facts["step_parts"], facts["run_parts"]
    assert set(steps) == set(PARTS)
    assert set(run) == {"steps", *BESIDE}
    assert sum(part["seconds"] for part in steps.values()) == pytest.approx(facts["training_seconds"], abs=0.002)
    assert sum(part["seconds"] for part in run.values()) == pytest.approx(facts["run_seconds"], abs=0.002)
    assert facts["starts"] == 1
    for name in ("data", "forward", "backward", "optimizer"):
        assert steps[name]["seconds"] > 0
    assert steps["other"]["share"] < 0.1
    for name in ("startup", "heldout", "logging", "checkpoint", "export"):
        assert run[name]["seconds"] > 0
    assert run["other"]["share"] < 0.05
    for name in ("startup", "heldout", "checkpoint"):
        assert facts[f"{name}_seconds"] == pytest.approx(run[name]["seconds"], abs=0.001)


def test_every_row_of_a_run_in_progress_adds_up_and_a_second_start_is_counted(
    material: Material, tmp_path: Path
) -> None:
    run = material.training("baseline", tmp_path)
    run.kill_after(8)
    rows = [json.loads(line) for line in (run.state / "timings.jsonl").read_text().splitlines()]
    for row in rows:
        assert sum(row["parts"].values()) == pytest.approx(row["seconds"], abs=1e-5)
        assert 0 <= row["parts"]["other"] < row["seconds"]
    assert ["startup" in row["beside"] for row in rows] == [True] + [False] * (len(rows) - 1)
    facts = read_json(run.finish().out / "timings.json")
    assert facts["starts"] == 2
    assert facts["run_parts"]["startup"]["seconds"] > rows[0]["beside"]["startup"]
    assert facts["run_parts"]["checkpoint"]["seconds"] > 0


def test_deepspeed_s_collectives_are_found(two_ranks: Training, undisturbed: dict[str, Training]) -> None:
    """Two ranks exchange their gradients; one has nobody to wait for."""
    found = read_json(two_ranks.out / "timings.json")["step_parts"]["communication"]
    alone = read_json(undisturbed["composed"].out / "timings.json")["step_parts"]["communication"]
    assert found["seconds"] > 0.005
    assert found["share"] > 2 * alone["share"]
