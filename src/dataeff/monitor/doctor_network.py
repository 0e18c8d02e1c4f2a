"""doctor: whether what is still to be fetched can be reached from here; asked only where something is missing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from dataeff.corpus.address import without_credentials
from dataeff.corpus.fetch import DEBIAN_MIRROR, HUB
from dataeff.corpus.index import INDEXES
from dataeff.monitor.finding import Finding, ok, problem
from dataeff.study import workflow as study_of
from dataeff.study.fetches import DebianFetch, HttpFetch, HubFetch, PackageFetch
from dataeff.study.load import Study
from dataeff.study.tasks import HubData, PackageData
from dataeff.study.types import BertTokenizer, Gpt2Tokenizer

TIMEOUT_SECONDS = 10.0


def network(study: Study, root: Path) -> Iterator[Finding]:
    missing = to_fetch(study, root / study.results)
    if not missing:
        yield ok("network", "everything is fetched; no job needs it any more")
        return
    for servers, names in missing.items():
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        faults = {server: unreachable(server) for server in servers}
        answering = [server for server, fault in faults.items() if fault is None]
        told = ", ".join(f"{without_credentials(server)} ({fault})" for server, fault in faults.items())
        if answering:
            yield ok("network", f"{without_credentials(answering[0])} answers, for {shown}")
        else:
            yield problem(
                "network",
                f"no answer of {told}, for {shown}",
                "run `snakemake fetch_eval` and `snakemake analysis` once where there is a network, or name a mirror "
                "(PIP_INDEX_URL, NPM_CONFIG_REGISTRY, HF_ENDPOINT, https_proxy)",
            )


def to_fetch(study: Study, results: Path) -> dict[tuple[str, ...], list[str]]:
    """What is not fetched yet, by the servers that have it; local folders are no matter of the network."""
    wanted: dict[str, object] = {f"sources/{name}": study.sources[name].fetch for name in study_of.read_sources(study)}
    wanted |= {f"datasets/{name}": dataset.fetch for name, dataset in study.datasets.items()}
    wanted |= {
        f"sources/tokenizer_{name}": vocabulary.fetch
        for name, vocabulary in study.tokenizers.items()
        if isinstance(vocabulary, Gpt2Tokenizer | BertTokenizer)
    }
    found: dict[tuple[str, ...], list[str]] = {}
    for name, fetch in wanted.items():
        servers = _servers(fetch)
        if servers and not (results / f"data/{name}.json").is_file():
            found.setdefault(servers, []).append(name)
    return found


def _servers(fetch: object) -> tuple[str, ...]:
    """Any one of them is enough."""
    if isinstance(fetch, PackageData):
        return _servers(fetch.fetch)
    if isinstance(fetch, PackageFetch):
        variable, default = INDEXES[fetch.kind]
        return (os.environ.get(variable) or default,)
    if isinstance(fetch, HubFetch | HubData):
        return (os.environ.get("HF_ENDPOINT") or HUB,)
    if isinstance(fetch, HttpFetch):
        return tuple(fetch.mirrors)
    return (DEBIAN_MIRROR,) if isinstance(fetch, DebianFetch) else ()


def unreachable(server: str) -> str | None:
    """None if the server of this address answers anything at all, through the environment's proxy if it has one."""
    parts = urlsplit(server)
    try:
        with urlopen(Request(f"{parts.scheme}://{parts.netloc}/", method="HEAD"), timeout=TIMEOUT_SECONDS):
            return None
    except HTTPError:
        return None
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))
