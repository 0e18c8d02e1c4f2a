"""The figures stage's folder as the page shows it: pictures inside, files for print beside, decoded samples."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from dataeff.errors import DataeffError
from dataeff.figures import CAPTIONS, SEEN
from dataeff.figures.seen import Seen
from dataeff.files import read_json
from dataeff.report.evidence import link_to
from dataeff.study.load import validate

MAIN_FIGURES = ("data_saving", "saving", "pareto", "quality_vs_data", "quality_delta", "loss_vs_effective_tokens")
"""The one that stands beside the headline claims: the first of these that the grid has."""
FORMS = {"PDF": "pdf", "SVG": "svg", "PNG": "png"}


def pictures_of(folder: Path, page_folder: Path) -> list[dict[str, Any]]:
    """The figures in the order in which they were drawn, each as a data URI."""
    pictures = []
    for name, words in read_json(folder / CAPTIONS).items():
        file = folder / f"{name}.png"
        if not file.is_file():
            raise DataeffError(f"{file}: no such file; delete {folder} and run `dataeff figures` again")
        data = base64.b64encode(file.read_bytes()).decode()
        links = {form: link_to(folder / f"{name}.{end}", page_folder) for form, end in FORMS.items()}
        pictures.append(
            {
                "name": name,
                "uri": f"data:image/png;base64,{data}",
                "files": {form: found for form, found in links.items() if found},
                **words,
            }
        )
    return pictures


def main_picture(pictures: list[dict[str, Any]]) -> dict[str, Any]:
    """The one for the first screen."""
    found = [picture for name in MAIN_FIGURES for picture in pictures if _is(picture, name)]
    return (found or pictures)[0]


def main_picture_of(folder: Path) -> tuple[Path, str, str] | None:
    """The file, title and caption of the one for the first screen, of a figures folder; None if nothing was drawn."""
    pictures = [{"name": name, **words} for name, words in read_json(folder / CAPTIONS).items()]
    if not pictures:
        return None
    found = main_picture(pictures)
    return folder / f"{found['name']}.png", found["title"], found["caption"]


def _is(picture: dict[str, Any], name: str) -> bool:
    """A figure of a grid of several families ends in the family's name; its first one counts."""
    return bool(picture["name"] == name or picture["name"].startswith(f"{name}_gpt"))


def samples_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Decoded easy and hard samples by metric, easiest first; empty where the figures stage found none to decode."""
    path = folder / SEEN
    if not path.is_file():
        return {}
    metrics = [facts for facts in validate(Seen, read_json(path), str(path)).metrics if facts.shown]
    several = len({facts.family for facts in metrics}) > 1
    return {
        f"{facts.family} {facts.metric}" if several else facts.metric: [
            sample.model_dump(mode="json") for sample in facts.shown
        ]
        for facts in metrics
    }
