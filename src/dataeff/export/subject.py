"""What is exported: a run, how its batch is spread over GPUs, and where its inputs and outputs lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dataeff.errors import DataeffError
from dataeff.pacing import PacingSchedule
from dataeff.plan import schedules
from dataeff.study.load import Study
from dataeff.study.specs import PlanSpec, PretrainSpec
from dataeff.study.types import Run


@dataclass(frozen=True)
class Layout:
    """How the batch is spread: it changes no plan, except for upstream's seqlen_reshape, which is per micro-batch."""

    micro_batch: int
    gpus: int
    zero_stage: int

    def accumulation_steps(self, batch_size: int) -> int:
        passes, rest = divmod(batch_size, self.micro_batch * self.gpus)
        if rest or not passes:
            raise DataeffError(
                f"batch_size {batch_size} is not a multiple of micro-batch {self.micro_batch} x {self.gpus} GPUs; "
                f"give --micro-batch and --gpus whose product divides it"
            )
        return passes


@dataclass(frozen=True)
class Places:
    """Where the run's inputs lie (absolute), and where its clusters will."""

    out: Path
    data: Path
    samples: Path
    token_prefixes: tuple[Path, ...]
    index: Path

    @property
    def clusters(self) -> Path:
        return self.out / "clusters"

    @property
    def vocabulary(self) -> Path:
        return self.out / "vocabulary"


@dataclass(frozen=True)
class Export:
    """A run and everything that its files are written from."""

    study: Study
    run: Run
    plan: PlanSpec
    training: PretrainSpec
    layout: Layout
    places: Places

    @property
    def pacing(self) -> dict[str, PacingSchedule]:
        return schedules(self.plan)


def places_of(study: Study, run: Run, results: Path, out: Path, index_dir: Path | None) -> Places:
    item = study.data_item(run.family)
    data = (results / "data" / study.scale.corpus).resolve()
    tokens = data / Path(item).parts[0] / "tokens"
    return Places(
        out=out.resolve(),
        data=data,
        samples=data / item / "samples",
        token_prefixes=tuple(tokens / f"{number:02d}" for number in range(study.corpus.shards)),
        index=(index_dir or out / "index").resolve(),
    )
