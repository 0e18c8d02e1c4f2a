"""A run's scores on prompted tasks, of every group, read with the items that they come from.

Values are computed again from the items (evaluate/rescore.py): a scores file that says something else is an error.

An average is of one kind of task. Probes are made of the corpus's own held-out text and tell runs on one corpus apart;
sets are items that others published. Where a grid has sets, they are its average and the probes have one beside it;
where it has probes alone, these are its average.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from dataeff.errors import DataeffError
from dataeff.evaluate.definitions import shots_of
from dataeff.evaluate.rescore import TaskItems, check_scores
from dataeff.evaluate.scores import Scores, TaskScore, read_scores
from dataeff.study.tasks import HarnessTask, HeldoutTask, Task


@dataclass(frozen=True)
class Prompted:
    """By shots and task: the scores, and the items that they were computed again from."""

    tasks: dict[int, dict[str, TaskScore]]
    items: dict[int, dict[str, TaskItems]]

    @property
    def averages(self) -> dict[int, float]:
        """By shots: the plain mean over the tasks that count, from their items; no entry where none does."""
        return self._means({shots: averaged_tasks(self.tasks, shots) for shots in self.tasks})

    @property
    def probe_averages(self) -> dict[int, float]:
        """The same of the probes, where they are no part of `averages`."""
        return self._means({shots: averaged_probes(self.tasks, shots) for shots in self.tasks})

    def _means(self, named: Mapping[int, Sequence[str]]) -> dict[int, float]:
        return {
            shots: fmean(self.items[shots][name].value for name in names) for shots, names in named.items() if names
        }


def averaged_tasks(asked: Mapping[int, Mapping[str, TaskScore]], shots: int) -> list[str]:
    """The tasks that count in the average at `shots`, of those `asked` at any number of shots: the sets, or the probes
    where there are no sets. Perplexities, of which lower is better, never count.
    """
    counting = _counting(asked[shots])
    sets = [name for name, is_set in counting.items() if is_set]
    return sets if _has_sets(asked) else list(counting)


def averaged_probes(asked: Mapping[int, Mapping[str, TaskScore]], shots: int) -> list[str]:
    """The probes that count at `shots`, where the average is of sets."""
    return [name for name, is_set in _counting(asked[shots]).items() if not is_set] if _has_sets(asked) else []


def _counting(tasks: Mapping[str, TaskScore]) -> dict[str, bool]:
    """Of the tasks that count, whether each is a set."""
    return {
        name: score.dataset is not None for name, score in tasks.items() if score.averaged and score.higher_is_better
    }


def _has_sets(asked: Mapping[int, Mapping[str, TaskScore]]) -> bool:
    return any(is_set for tasks in asked.values() for is_set in _counting(tasks).values())


def counted(tasks: Mapping[str, Task]) -> list[str]:
    """The tasks of a grid's average, before any score is read."""
    sets = [
        name
        for name, task in tasks.items()
        if isinstance(task, HarnessTask) and task.averaged and task.higher_is_better
    ]
    return sets or _probes(tasks)


def counted_probes(tasks: Mapping[str, Task]) -> list[str]:
    """The probes that have an average beside that one."""
    probes = _probes(tasks)
    return [] if probes == counted(tasks) else probes


def _probes(tasks: Mapping[str, Task]) -> list[str]:
    return [name for name, task in tasks.items() if isinstance(task, HeldoutTask) and task.averaged]


def as_published(tasks: Mapping[str, Task]) -> list[str]:
    """Of these, the rows of the papers' 19 tasks that they are, with the papers' items and scoring."""
    names = [task.published_as for task in tasks.values() if isinstance(task, HarnessTask) and task.averaged]
    return [name for name in names if name is not None]


def read_prompted(
    folder: Path, tasks: Mapping[str, Task], shots: Sequence[int], run: str, model_digest: str
) -> Prompted:
    """What {group}/{k}shot below evaluate/{run} hold of these tasks, all of them of this run's weights."""
    found: dict[int, dict[str, TaskScore]] = {number: {} for number in shots}
    items: dict[int, dict[str, TaskItems]] = {number: {} for number in shots}
    for group in dict.fromkeys(task.group for task in tasks.values()):
        own = {name: shots_of(task, shots) for name, task in tasks.items() if task.group == group}
        for number in sorted({*shots, *(number for numbers in own.values() for number in numbers)}):
            place = folder / group / f"{number}shot"
            scores = read_scores(place / "scores.json")
            _check(place, scores, [name for name, numbers in own.items() if number in numbers], run, model_digest)
            found.setdefault(number, {}).update(scores.tasks)
            items.setdefault(number, {}).update(check_scores(scores, place))
    # In the order of the grid's tasks, whatever groups they are in.
    return Prompted(
        {number: {name: scores[name] for name in tasks if name in scores} for number, scores in found.items()}, items
    )


def _check(place: Path, scores: Scores, tasks: Sequence[str], run: str, model_digest: str) -> None:
    file = place / "scores.json"
    if scores.name != run:
        raise DataeffError(f"{file} is of run '{scores.name}', not of '{run}'; delete it and run again")
    if scores.model_digest != model_digest:
        raise DataeffError(
            f"{file} and heldout.json of '{run}' are of different weights ({scores.model_digest[:12]}, "
            f"{model_digest[:12]}); delete the folder and run again"
        )
    if set(scores.tasks) != set(tasks):
        raise DataeffError(f"{file} has the tasks {sorted(scores.tasks)}, the grid {sorted(tasks)}; evaluate again")
