"""Where the data of a run lie that snakemake has made: the one place that knows the paths of its rules.

Names are those of the Snakefile and workflow/rules: samples and difficulty indexes of the run's item, the tokenizer
and token files of its tokenizer, the held-out text of its corpus.
"""

from __future__ import annotations

import shlex
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dataeff.errors import DataeffError
from dataeff.files import sha256_file
from dataeff.study.load import Study
from dataeff.study.types import Run
from dataeff.study.workflow import shard_names

_INDEX_FILES = ("index.json", "value.npy", "order.npy", "manifest.json")


@dataclass(frozen=True)
class RunData:
    """`tokens`: the token files, less their suffix; `indexes`: the index folder of each metric that selects."""

    heldout: Path
    tokenizer: Path
    tokens: list[Path]
    samples: Path
    indexes: dict[str, Path]

    @classmethod
    def of(cls, study: Study, run: Run, results: Path) -> RunData:
        data = results / "data" / study.scale.corpus
        item = study.data_item(run.family, study.layout(run))
        tokenized = data / Path(item).parts[0]
        return cls(
            heldout=data / "heldout",
            tokenizer=tokenized / "tokenizer",
            tokens=[tokenized / "tokens" / shard for shard in shard_names(study)],
            samples=data / item / "samples",
            indexes={metric: data / item / "analyze" / metric for metric in study.variant(run).selections},
        )

    def missing(self) -> list[Path]:
        """The files to make, one of each rule; those that are made on the way to another are not named."""
        folders: dict[Path, tuple[str, ...]] = {
            self.samples: ("samples.json", "manifest.json"),
            **dict.fromkeys(self.indexes.values(), _INDEX_FILES),
            self.heldout: ("manifest.json",),
        }
        found = [
            folder / files[0]
            for folder, files in folders.items()
            if not all((folder / name).is_file() for name in files)
        ]
        if self.samples / "samples.json" in found:
            return found
        tokens = [Path(f"{prefix}{suffix}") for prefix in self.tokens for suffix in (".bin", ".idx")]
        return found + [path for path in (*tokens, self.tokenizer / "tokenizer.json") if not path.is_file()]

    def digests(self) -> dict[str, str]:
        """What an identity needs to know of the data: that of each manifest, and the tokenizer's."""
        folders = {"samples": self.samples, "heldout": self.heldout, **self.indexes}
        found = {name: sha256_file(folder / "manifest.json") for name, folder in folders.items()}
        return {**found, "tokenizer": sha256_file(self.tokenizer / "tokenizer.json")}


def snakemake_command(targets: Sequence[str], files: Sequence[Path], settings: Sequence[str]) -> str:
    """The command that makes the targets, with the configuration files and settings of the search."""
    words = ["snakemake", "--cores", "all", *targets, *(["--configfile", *map(str, files)] if files else [])]
    return shlex.join([*words, *(["--config", *settings] if settings else [])])


def check_made(data: Sequence[RunData], study: Study, run: Run, args: Namespace) -> None:
    """Raises one DataeffError that names what is missing and the command that makes it.

    `study` is that of the grids, without the run if it is in none; `args` hold the options that describe it.
    """
    missing = list(dict.fromkeys(path for part in data for path in part.missing()))
    if not missing:
        return
    results = Path(args.root) / study.results
    targets = [str(Path(study.results) / path.relative_to(results)) for path in missing]
    command = snakemake_command(targets, args.configfile, args.config)
    known = any((other.family, other.variant) == (run.family, run.variant) for other in study.runs)
    unknown = "" if known else f" (first put the variant '{run.variant}' into a grid, or snakemake knows no such file)"
    where = Path(args.root).resolve()
    raise DataeffError(f"{missing[0]}: missing, {len(missing)} in all; make them in {where} with{unknown}: {command}")
