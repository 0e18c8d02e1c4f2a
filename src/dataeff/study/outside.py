"""The study outside Snakemake: what the same `--configfile` and `--config` would make of this folder's config/.

For commands that answer questions or export runs: no rule has run, no spec is read. A run is found by its name in the
study's grids; one that is in no grid is made up from its name, so that any row can be looked at before it is added.
"""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fractions import Fraction
from pathlib import Path
from typing import Any

import yaml

from dataeff.errors import DataeffError, unknown_name
from dataeff.files import read_yaml
from dataeff.study.load import Study, load_study, merge
from dataeff.study.types import Run

_NAME = re.compile(r"(?P<family>[a-z]+)-(?P<variant>[a-z][a-z0-9_]*)-(?P<percent>\d{1,3})-s(?P<seed>\d+)")
_OUTSIDE = "asked"
"""The grid of a run that is in none."""


@dataclass(frozen=True)
class AskedRun:
    """A run and the study that it belongs to; `in_grid` is false for one made up from its name."""

    study: Study
    run: Run
    in_grid: bool


def raw_config(root: Path, files: Sequence[Path] = (), settings: Sequence[str] = ()) -> dict[str, Any]:
    """config/config.yaml with the files and then the settings laid on it, as Snakemake merges them."""
    if not (root / "config" / "config.yaml").is_file():
        raise DataeffError(
            f"{root / 'config' / 'config.yaml'}: no such file; go to the study's folder or name it with --root"
        )
    merged: dict[str, Any] = {}
    for path in [root / "config" / "config.yaml", *files]:
        raw = read_yaml(path)
        if raw is not None and not isinstance(raw, Mapping):
            raise DataeffError(f"{path}: a mapping of keys to values is needed at its top; found {raw!r:.80}")
        merged = merge(merged, raw or {})
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise DataeffError(f"--config: '{setting}' is not KEY=VALUE (a run's name goes before the options)")
        merged = merge(merged, {key: _value(setting, text)})
    return merged


def _value(setting: str, text: str) -> Any:
    """A number where it looks like one to Python (1e-3 is no number to YAML), else what YAML reads."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise DataeffError(f"--config: '{setting}': its value is not YAML: {error}") from None


def study_of(args: Namespace) -> Study:
    """The study that the options --root, --configfile and --config describe."""
    return load_study(raw_config(args.root, args.configfile, args.config), args.root)


def results_folder(args: Namespace, study: Study) -> Path:
    """The study's results, which a relative setting puts below the root."""
    return Path(args.root) / study.results


def find_run(args: Namespace, name: str, settings: Sequence[str] = ()) -> AskedRun:
    """The run of this name, in a grid or not; `settings` go on top of those of the options.

    A name holds a rounded percentage. The exact fraction is that of `args.data` where given, else the one fraction of
    the family's grids and published constants that rounds to it, else the percentage itself.
    """
    raw = raw_config(args.root, args.configfile, [*args.config, *settings])
    study = load_study(raw, args.root)
    for run in study.runs:
        if run.name == name and args.data in (None, run.data):
            return AskedRun(study, run, in_grid=True)
    parts = _NAME.fullmatch(name)
    if parts is None or not 0 < int(parts["percent"]) <= 100:
        near = get_close_matches(name, [run.name for run in study.runs], n=1) or [study.runs[0].name]
        raise DataeffError(f"unknown run '{name}'; runs are FAMILY-VARIANT-PERCENT-sSEED, such as {near[0]}")
    family, variant, percent = parts["family"], parts["variant"], int(parts["percent"])
    if family not in study.scale.families:
        raise unknown_name("family", family, study.scale.families, f"{name} (at scale '{study.scale_name}')")
    data = _checked(name, percent, args.data) if args.data is not None else _fraction(study, family, percent, name)
    entry = {"family": family, "variants": [variant], "data": [str(data)]}
    try:
        alone = load_study(
            {**raw, "grid": _OUTSIDE, "grids": {_OUTSIDE: [entry]}, "seeds": [int(parts["seed"])]}, args.root
        )
    except DataeffError as error:
        raise DataeffError(str(error).replace(f"config: grids.{_OUTSIDE}[0].variants", name)) from None
    return AskedRun(alone, alone.runs[0], in_grid=False)


def _checked(name: str, percent: int, data: Fraction) -> Fraction:
    if round(data * 100) != percent:
        raise DataeffError(f"--data {data}: that is {round(data * 100)}% and not the {percent}% of {name}")
    return data


def _fraction(study: Study, family: str, percent: int, name: str) -> Fraction:
    known = {run.data for run in study.runs if run.family == family}
    known |= {
        constants.data
        for name, scale in study.scale.families.items()
        if name == family
        for constants in scale.published
    }
    found = sorted(data for data in known if round(data * 100) == percent)
    if len(found) > 1:
        raise DataeffError(
            f"{name}: {percent}% may be {' or '.join(map(str, found))}; say which with --data {found[0]}"
        )
    return found[0] if found else Fraction(percent, 100)
