"""What is exported: a run, how its batch is spread over GPUs, and where its inputs and outputs lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dataeff.corpus.selection import shard_names
from dataeff.errors import DataeffError
from dataeff.pacing import PacingSchedule
from dataeff.plan import schedules
from dataeff.study.load import Study
from dataeff.study.specs import PlanSpec, PretrainSpec
from dataeff.study.types import Hardware, Run


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


def spread(
    batch_size: int, hardware: Hardware, micro_batch: int | None, gpus: int | None, zero_stage: int | None
) -> Layout:
    """As asked for, else as the scale's hardware says; its micro-batch is the most that a GPU takes at once."""
    gpus = gpus or hardware.nodes * hardware.processes
    if micro_batch is None and hardware.micro_batch == "auto":
        raise DataeffError(
            "hardware.micro_batch is auto, which is found where a run starts; give --micro-batch and --gpus whose "
            f"product divides {batch_size}"
        )
    return Layout(
        micro_batch or max(1, min(int(hardware.micro_batch), batch_size // gpus)),
        gpus,
        hardware.zero_stage if zero_stage is None else zero_stage,
    )


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
    item = study.data_item(run.family, study.layout(run))
    data = (results / "data" / study.scale.corpus).resolve()
    tokens = data / Path(item).parts[0] / "tokens"
    return Places(
        out=out.resolve(),
        data=data,
        samples=data / item / "samples",
        token_prefixes=tuple(tokens / shard for shard in shard_names(study.corpus, study.sources)),
        index=(index_dir or out / "index").resolve(),
    )
