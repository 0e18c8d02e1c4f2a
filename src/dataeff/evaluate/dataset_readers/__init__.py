"""Readers of evaluation items inside package files: the files of an archive -> the rows of each split.

Nothing of a package is run. Where a package has one split only, rows are split by a hash of their passage, so that
few-shot examples and training items share no passage with those that are scored. A reader that comes to give other
rows raises DatasetSpec's version: it is part of the name under which the rows are kept.
"""

from __future__ import annotations

from dataeff.errors import unknown_name
from dataeff.evaluate.dataset_readers.base import Reader, Row
from dataeff.evaluate.dataset_readers.choices import (
    read_cosmosqa,
    read_logiqa,
    read_qasc,
    read_quartz,
    read_social_iqa,
)
from dataeff.evaluate.dataset_readers.classification import read_rotten_tomatoes, read_strategyqa, read_vitaminc
from dataeff.evaluate.dataset_readers.coreference import read_winogrande, read_wsc
from dataeff.evaluate.dataset_readers.passages import read_multirc, read_qnli_from_squad, read_squad

READERS: dict[str, Reader] = {
    "cosmosqa": read_cosmosqa,
    "logiqa": read_logiqa,
    "multirc": read_multirc,
    "qasc": read_qasc,
    "qnli_from_squad": read_qnli_from_squad,
    "quartz": read_quartz,
    "rotten_tomatoes": read_rotten_tomatoes,
    "social_iqa": read_social_iqa,
    "squad": read_squad,
    "strategyqa": read_strategyqa,
    "vitaminc": read_vitaminc,
    "winogrande": read_winogrande,
    "wsc": read_wsc,
}


def find_reader(name: str, where: str) -> Reader:
    if name not in READERS:
        raise unknown_name("reader", name, READERS, where)
    return READERS[name]


__all__ = ["READERS", "Reader", "Row", "find_reader"]
