"""Short trainings of a run's variants: each in a process of its own, kept as evidence, never trained twice.

Below the search's folder `trainings/` holds, by its identity, the evidence of each training that is done, and the
folder of one that is not: its plan, checkpoints and log, from which the next search continues it.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from dataeff.errors import DataeffError
from dataeff.files import canonical_digest, read_json, write_json
from dataeff.study.load import Study, validate
from dataeff.study.specs import PlanSpec, plan_spec, pretrain_spec, write_spec
from dataeff.study.types import Run, Variant
from dataeff.tune import worker
from dataeff.tune.cut import watched_table, write_cut_plan
from dataeff.tune.data import RunData
from dataeff.tune.evidence import Evidence, read_metrics
from dataeff.tune.pacings import Tuned, with_pacing, without_pacing
from dataeff.tune.process import Progress, run_training
from dataeff.tune.search import Candidate

MEASURED_STEPS = 4
METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class Watch:
    """What of a run is trained and how often it is probed: `points` probes over `multiples` of the warm-up."""

    multiples: int
    points: int


@dataclass
class Trainings:
    """Trains what is asked for, and counts it. `most` trainings and `seconds` each are what progress lines expect."""

    study: Study
    run: Run
    tuned: Tuned
    results: Path
    watch: Watch
    out: Path
    most: int = 0
    asked: int = 0
    seconds: float = 0.0
    done: list[Evidence] = field(default_factory=list)

    def evidence(self, candidate: Candidate | None) -> Evidence:
        """Of a candidate, or (None) of the run without the pacing: read where it is kept, else trained."""
        self.asked += 1
        study = self._study_with(candidate)
        spec = plan_spec(study, self.run)
        identity = self._identity(study, spec)
        kept = self._kept(identity)
        if kept is None:
            kept = self._train(candidate, study, spec, identity)
            write_json(self._file(identity), kept.model_dump(mode="json"))
            shutil.rmtree(self._folder(identity), ignore_errors=True)
        self.done.append(kept)
        self.seconds = max(evidence.seconds for evidence in self.done)
        return kept

    def kept(self, candidate: Candidate | None) -> Evidence | None:
        """That of an earlier search, if there is one."""
        study = self._study_with(candidate)
        return self._kept(self._identity(study, plan_spec(study, self.run)))

    def words(self, candidate: Candidate | None) -> str:
        return "without it" if candidate is None else f"{self.tuned.words(candidate.start)} over {candidate.over}"

    def watched(self, candidate: Candidate | None) -> tuple[int, int]:
        """Steps and effective tokens that the training of a candidate takes."""
        study = self._study_with(candidate)
        table = watched_table(plan_spec(study, self.run), self.data(study), self.watch.multiples)
        return len(table), int(table["effective_tokens"].sum())

    def measured_seconds(self) -> float:
        """What a training will take, from the first steps of one: all but the steps, then each step and probe."""
        study, folder = self._study_with(None), self.out / "trainings" / "measured"
        shutil.rmtree(folder, ignore_errors=True)
        spec, steps = plan_spec(study, self.run), self.watched(None)[0]
        begun, trained = time.monotonic(), min(MEASURED_STEPS, steps)
        self._prepare(study, spec, trained, 1, folder)
        run_training(folder, self.run.family, lambda: None)
        whole = time.monotonic() - begun
        timings = folder / worker.TRAINED / "timings.json"
        if not timings.is_file():  # it diverged
            return whole * steps / trained
        times = read_json(timings)
        shutil.rmtree(folder)
        training, probe = times["training_seconds"], times["heldout_seconds"]
        return float(whole - training - probe + training * steps / trained + probe * self.watch.points)

    def all_data(self) -> list[RunData]:
        """What the trainings read: with the pacing, and without."""
        return [self.data(self.study), self.data(self._study_with(None))]

    def _study_with(self, candidate: Candidate | None) -> Study:
        """The study whose variant is the candidate's, without an average of the weights: probes are of the last."""
        variant = self.study.variant(self.run).model_copy(update={"averaging": None})
        if candidate is None:
            variant = without_pacing(variant, self.tuned)
        else:
            variant = with_pacing(variant, self.tuned, candidate.start, candidate.over)
        return _with_variant(self.study, self.run, variant)

    def data(self, study: Study) -> RunData:
        """Those of a variant: without the pacing it may select by one index less, or read samples of one length."""
        return RunData.of(study, self.run, self.results)

    def _identity(self, study: Study, spec: PlanSpec) -> str:
        """The digest of all that decides the losses; hardware is no part of it, as of no identity."""
        return canonical_digest(
            {
                "plan": spec.digest,
                "pretrain": pretrain_spec(study, self.run).digest,
                "multiples": self.watch.multiples,
                "points": self.watch.points,
                "data": self.data(study).digests(),
            }
        )

    def _folder(self, identity: str) -> Path:
        return self.out / "trainings" / identity[:16]

    def _file(self, identity: str) -> Path:
        return self._folder(identity).with_suffix(".json")

    def _kept(self, identity: str) -> Evidence | None:
        path = self._file(identity)
        if not path.is_file():
            return None
        kept = validate(Evidence, read_json(path), str(path))
        return kept if kept.identity == identity else None

    def _train(self, candidate: Candidate | None, study: Study, spec: PlanSpec, identity: str) -> Evidence:
        begun, folder = time.monotonic(), self._folder(identity)
        steps, tokens = 0, 0
        refused = None
        try:
            steps, tokens = self.watched(candidate)
            self._prepare(study, spec, steps, self.watch.points, folder)
        except DataeffError as error:
            if candidate is None:
                raise
            refused = str(error)
        if refused is None:
            name = f"tune: training {self.asked} of at most {self.most} ({self.words(candidate)})"
            progress = Progress(
                name, folder / worker.STATE / METRICS, steps, tokens, self.seconds, self.most - self.asked
            )
            run_training(folder, self.run.family, progress.show)
        finished = (folder / worker.TRAINED).is_dir()
        log = folder / (worker.TRAINED if finished else worker.STATE) / METRICS
        trained, trained_tokens, probes, diverged_at = read_metrics(log)
        if (folder / worker.DIVERGED).is_file():
            diverged_at = diverged_at or int(read_json(folder / worker.DIVERGED)["step"])
        return Evidence(
            identity=identity,
            start=candidate.start if candidate else None,
            over=candidate.over if candidate else None,
            steps=trained,
            steps_to_train=steps,
            effective_tokens=trained_tokens,
            probes=probes,
            diverged_at=diverged_at,
            refused=refused,
            seconds=round(time.monotonic() - begun, 2),
        )

    def _prepare(self, study: Study, spec: PlanSpec, steps: int, points: int, folder: Path) -> None:
        data = self.data(study)
        if not (folder / worker.PLAN / "plan.json").is_file():
            write_cut_plan(spec, data, steps, folder / worker.PLAN)
        write_spec(folder / worker.SPEC, pretrain_spec(study, self.run))
        hardware = study.hardware.model_copy(update={"heldout_points": points})
        write_json(
            folder / worker.JOB,
            {
                "samples": str(data.samples),
                "tokens": [str(prefix) for prefix in data.tokens],
                "tokenizer": str(data.tokenizer),
                "heldout": str(data.heldout),
                "hardware": hardware.model_dump(mode="json"),
            },
        )


def _with_variant(study: Study, run: Run, variant: Variant) -> Study:
    variants = {**study.variants, run.family: {**study.variants[run.family], run.variant: variant}}
    return study.model_copy(update={"variants": variants})
