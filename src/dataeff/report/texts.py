"""What was trained on: the corpus's data card and the counts of its token files, as the page shows them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dataeff.errors import DataeffError
from dataeff.files import read_json


def card_of(path: Path) -> dict[str, Any]:
    """The corpus's data card: what each domain is, and from where."""
    card = read_json(path)
    try:
        sources = [
            {
                "name": name,
                "domain": source["domain"],
                "about": source["about"],
                "licence": source["licence"],
                "stands_in_for": source["stands_in_for"],
                "training": source["training"],
                "heldout": source["heldout"],
                "dropped": _dropped(source["dropped"]),
            }
            for name, source in card["sources"].items()
        ]
        facts = {key: card[key] for key in ("corpus", "about", "training", "heldout")}
    except KeyError as error:
        raise DataeffError(f"{path}: no key {error}; run `dataeff corpus build` again") from None
    return {**facts, "sources": sources, "domains": len({source["domain"] for source in sources})}


def tokens_of(files: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Per tokenizer: documents, tokens and share of the tokens of each domain, over all shards."""
    found: dict[str, Counter[str]] = {}
    documents: dict[str, Counter[str]] = {}
    for file in files:
        tokenizer = file.parents[1].name
        for domain, facts in read_json(file)["domains"].items():
            found.setdefault(tokenizer, Counter())[domain] += facts["tokens"]
            documents.setdefault(tokenizer, Counter())[domain] += facts["documents"]
    return {
        tokenizer: {
            "total": counts.total(),
            "domains": [
                {
                    "name": domain,
                    "documents": documents[tokenizer][domain],
                    "tokens": tokens,
                    "share": tokens / max(1, counts.total()),
                }
                for domain, tokens in counts.most_common()
            ],
        }
        for tokenizer, counts in found.items()
    }


def _dropped(counts: dict[str, int]) -> str:
    """Why documents of a source were left out, and how many."""
    return ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in counts.items() if count) or "–"
