"""The data card: what a corpus holds, whence, under which licence, and what was left out or taken instead.

No path and no time is in it: the same spec and files give the same card.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataeff.corpus.fetch import Manifest
from dataeff.corpus.selection import left_out
from dataeff.errors import DataeffError
from dataeff.files import MANIFEST, read_json
from dataeff.study.specs import CorpusSpec

DROPPED = ("empty", "short", "not_utf8", "duplicate", "over_limit")


@dataclass(slots=True)
class Size:
    documents: int = 0
    bytes: int = 0

    def add(self, documents: int, size: int) -> None:
        self.documents += documents
        self.bytes += size

    def facts(self) -> dict[str, int]:
        return {"documents": self.documents, "bytes": self.bytes}


@dataclass(slots=True)
class Part:
    """The training or the held-out part of a corpus, by source and by domain."""

    total: Size = field(default_factory=Size)
    sources: dict[str, Size] = field(default_factory=dict)
    domains: dict[str, Size] = field(default_factory=dict)

    def add(self, source: str, domain: str, documents: int, size: int) -> None:
        self.total.add(documents, size)
        self.sources.setdefault(source, Size()).add(documents, size)
        self.domains.setdefault(domain, Size()).add(documents, size)


def slug(domain: str) -> str:
    """`PubMed Abstracts` -> `pubmed_abstracts`: the name of the domain's held-out file."""
    return re.sub(r"[^a-z0-9]+", "_", domain.lower()).strip("_")


def check_slugs(domains: Iterable[str]) -> None:
    """Each domain needs a file name of its own."""
    slugs: dict[str, str] = {}
    for domain in domains:
        if not slug(domain) or slugs.setdefault(slug(domain), domain) != domain:
            raise DataeffError(
                f"domain '{domain}': its file name '{slug(domain)}' is empty or another domain's; rename it"
            )


def data_card(
    spec: CorpusSpec,
    manifests: Mapping[str, Manifest],
    tallies: Mapping[str, Counter[str]],
    training: Part,
    heldout: Part,
    shards: int,
) -> dict[str, Any]:
    """`manifests` by the source wanted; tallies and parts by the source taken."""
    domains = sorted({*training.domains, *heldout.domains})
    return {
        "corpus": spec.name,
        "digest": spec.digest,
        "about": spec.corpus.about,
        "layout": spec.corpus.layout,
        "shards": shards,
        "seed": spec.corpus.seed,
        "training": training.total.facts(),
        "heldout": heldout.total.facts(),
        "domains": {
            domain: {
                "slug": slug(domain),
                "training": training.domains.get(domain, Size()).facts(),
                "heldout": heldout.domains.get(domain, Size()).facts(),
            }
            for domain in domains
        },
        "sources": {
            manifest.taken: _source_facts(spec, manifest, tallies[manifest.taken], training, heldout)
            for manifest in manifests.values()
        },
        "substitutions": [
            manifest.substitution.model_dump(mode="json") for manifest in manifests.values() if manifest.substitution
        ],
        "left_out": {
            name: {
                "licence": spec.sources[name].licence,
                "reason": "strict_licence: the licence does not clearly allow passing the text on",
            }
            for name in left_out(spec.corpus, spec.sources)
        },
        "notes": _notes(spec),
    }


def _source_facts(
    spec: CorpusSpec, manifest: Manifest, tally: Counter[str], training: Part, heldout: Part
) -> dict[str, Any]:
    name = manifest.taken
    shown = {"domain", "about", "licence", "redistributable", "stands_in_for"}
    return {
        **spec.sources[name].model_dump(mode="json", include=shown),
        "files": [{"name": file.name, "bytes": file.bytes, "sha256": file.sha256} for file in manifest.files],
        "documents_read": tally["read"],
        "stopped_early": bool(tally["stopped_early"]),
        "dropped": {reason: tally[reason] for reason in DROPPED},
        "training": training.sources.get(name, Size()).facts(),
        "heldout": heldout.sources.get(name, Size()).facts(),
    }


def _notes(spec: CorpusSpec) -> list[str]:
    if spec.corpus.layout == "pooled":
        return []
    held = spec.corpus.heldout_from
    return [
        "duplicates were not searched for in the training text: each shard is processed alone, in the order of its "
        "file, and the source is taken to be deduplicated",
        f"the held-out text is a choice from source {held}; that training text does not repeat it was not checked"
        if held
        else "nothing is held out",
    ]


def listed_files(folder: Path) -> dict[str, Any]:
    """The files of a finished folder, as its manifest has them."""
    files: dict[str, Any] = read_json(folder / MANIFEST)["files"]
    return files
