"""Scores of tasks by lm-eval's own evaluator: one task at one number of shots at a time, with one loaded model.

Nothing of lm-eval is replaced but where a task's data lie, so its command line gives the same numbers; the one setting
that is added keeps an item from being its own example (prepare.py). What it leaves silent is told: prompts longer than
the context, which it cuts on the left, are counted, values that are not finite are errors, and the task's value must
follow from the items that are kept (rescore.py).
"""

from __future__ import annotations

import logging
import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dataeff.errors import DataeffError
from dataeff.evaluate.model import AskedModel
from dataeff.evaluate.prepare import Prepared
from dataeff.evaluate.records import generated_tokens, records_of
from dataeff.evaluate.rescore import AGGREGATIONS, TaskItems, same, standard_error, task_items
from dataeff.evaluate.resume import TaskResult
from dataeff.evaluate.scores import TaskScore
from dataeff.evaluate.watch import watched

PYTHON_SEED, SEED = 0, 1234
"""lm-eval's own defaults, of Python's generator and of each other one; SEED decides an item's few-shot examples."""


@dataclass
class Harness:
    """The tasks of a group, loaded when first asked for and kept for the next number of shots."""

    model: AskedModel
    version: str
    limit: int
    manager: Any
    loaded: dict[str, Any]

    def score(self, name: str, prepared: Prepared, shots: int) -> TaskResult:
        """One task at one number of shots, over its first `limit` items."""
        from lm_eval.evaluator import evaluate

        task = self._task(name)
        _seed()
        task.set_config(key="num_fewshot", value=shots)
        task.set_fewshot_seed(seed=SEED)
        generated = prepared.definition.output_type == "generate_until"
        with watched(self.model, name, task) if generated else nullcontext():
            results: Any = evaluate(
                lm=self.model.lm, task_dict={"tasks": {name: task}}, limit=self.limit, bootstrap_iters=0
            )
        return self._result(name, prepared, shots, results["results"][name], results["samples"][name])

    def _task(self, name: str) -> Any:
        if name not in self.loaded:
            _seed()  # as the command line does before it loads a task, whose items may be shuffled then
            self.loaded[name] = self.manager.load([name])["tasks"][name]
        return self.loaded[name]

    def _result(
        self, name: str, prepared: Prepared, shots: int, values: dict[str, Any], samples: Sequence[dict[str, Any]]
    ) -> TaskResult:
        metric = prepared.metric
        key = next(key for key in values if key.startswith(f"{metric},"))
        aggregations = prepared.definition.aggregations
        kept = [name for name, aggregation in aggregations.items() if aggregation in AGGREGATIONS]
        chosen = [sample for sample in samples if sample["filter"] == key.partition(",")[2]]
        records = records_of(self.model, name, chosen, kept)
        if any(metric not in record["metrics"] for record in records):
            raise DataeffError(f"task '{name}': some items have no {metric}; choose a metric that every item has")
        found = task_items(records, metric, str(aggregations[metric]))
        if not same(found.value, float(values[key])):
            raise DataeffError(
                f"task '{name}': lm-eval gives {metric} {values[key]}, its items give {found.value}; the task does "
                f"more than '{aggregations[metric]}' says, and cannot be computed again from its items"
            )
        truncated = sum(record["truncated"] for record in records)
        return TaskResult(self._score(prepared, shots, found, float(values[key]), truncated), records)

    def _score(self, prepared: Prepared, shots: int, found: TaskItems, value: float, truncated: int) -> TaskScore:
        return TaskScore(
            **prepared.facts,
            harness=self.version,
            aggregation=found.aggregation,
            value=value,
            standard_error=standard_error(found),
            items=len(found.numbers),
            truncated_prompts=truncated,
            own_split_items=len(found.numbers) if shots and prepared.examples_are_scored else 0,
        )


@contextmanager
def open_harness(model: AskedModel, tasks: dict[str, Prepared], version: str, limit: int) -> Iterator[Harness]:
    """lm-eval with these tasks and no others, their data read from where they lie."""
    _check_room(model, tasks)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    from lm_eval.tasks import TaskManager

    # Jobs that run at once parse the data into folders of their own; the home folder is left alone.
    with tempfile.TemporaryDirectory(prefix="dataeff-evaluate-") as scratch:
        for name, prepared in tasks.items():
            (Path(scratch) / name).mkdir()
            document = prepared.document(name, Path(scratch) / name)
            (Path(scratch) / f"{name}.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
        yield Harness(model, version, limit, TaskManager(include_path=scratch, include_defaults=False), {})


def _seed() -> None:
    import numpy as np
    import torch

    random.seed(PYTHON_SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)


def _check_room(model: AskedModel, tasks: dict[str, Prepared]) -> None:
    for name, prepared in tasks.items():
        if prepared.definition.output_type != "generate_until":
            continue
        wanted = generated_tokens(model, prepared.definition.content.get("generation_kwargs") or {})
        if wanted >= model.lm.max_length:
            raise DataeffError(
                f"task '{name}' writes up to {wanted} tokens, {model.folder} reads {model.lm.max_length} in all: "
                f"nothing is left for the prompt; leave the task out, or use one of its kind that is not generated"
            )
