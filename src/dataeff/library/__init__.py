"""Curriculum learning and random-LTD in a training loop of one's own, without the study around it.

`make_plan` decides every step before training, as `dataeff plan` does for the study. The rest reads such a plan:
`PlanSampler` says which samples a rank's micro-batches take, `MicroBatch` cuts them and sets the token drop, and
`PlannedDataset` with `PlannedCollator` do the same where something else owns the loop, such as Hugging Face's Trainer
(`dataeff.library.hugging_face`). Nothing here is kept between steps: each of these is a function of the plan and a
step, so that loader workers may run ahead and a run may resume at any step. docs/library.md shows how.
"""

from dataeff.library.batches import MicroBatch, PlanSampler
from dataeff.library.dataset import PlannedCollator, PlannedDataset
from dataeff.library.make import make_plan
from dataeff.library.plan import Plan

__all__ = ["MicroBatch", "Plan", "PlanSampler", "PlannedCollator", "PlannedDataset", "make_plan"]
