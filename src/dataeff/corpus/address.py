"""Opening an http(s) address: a timeout on silence, and credentials for the host they belong to, nowhere else."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

from dataeff.errors import DataeffError

TIMEOUT_SECONDS = 60.0
"""Without a byte for so long, a connection counts as broken."""


def open_address(url: str, headers: Mapping[str, str], token: str | None = None) -> Any:
    """The open response. User and password in the address, or a token, go to that host, not to where it redirects."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise DataeffError(f"{without_credentials(url)}: an address at http:// or https:// is needed")
    request = Request(without_credentials(url), headers={"User-Agent": "dataeff", **headers})
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(pair.encode()).decode()}")
    elif token:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    return urlopen(request, timeout=TIMEOUT_SECONDS)


def without_credentials(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
