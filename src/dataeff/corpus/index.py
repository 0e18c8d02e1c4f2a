"""Where a package registry keeps a file: PyPI's JSON index (PEP 691) and npm's registry, looked up by exact name."""

from __future__ import annotations

import json
import os
import re
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from dataeff.corpus.address import open_address, without_credentials
from dataeff.errors import DataeffError, unknown_name
from dataeff.study.fetches import PackageFetch

PYPI_JSON = "application/vnd.pypi.simple.v1+json"
INDEXES = {
    "pypi": ("PIP_INDEX_URL", "https://pypi.org/simple"),
    "npm": ("NPM_CONFIG_REGISTRY", "https://registry.npmjs.org"),
}


def index_page(package: PackageFetch) -> str:
    """The page of the package, on the index that the environment names, else on the public one."""
    variable, default = INDEXES[package.kind]
    index = (os.environ.get(variable) or default).rstrip("/")
    if package.kind == "npm":
        return f"{index}/{quote(package.package, safe='@')}"
    return f"{index}/{re.sub(r'[-_.]+', '-', package.package.lower())}/"


def find_url(package: PackageFetch) -> str:
    """The address of the exact file, as the index lists it."""
    page = index_page(package)
    where = f"{without_credentials(page)} ({package.package} {package.version})"
    listing = _read_index(page, where)
    try:
        if package.kind == "npm":
            if package.version not in listing["versions"]:
                raise unknown_name("version", package.version, listing["versions"], where)
            address = str(listing["versions"][package.version]["dist"]["tarball"])
            urls = {PurePosixPath(urlsplit(address).path).name: address}
        else:
            urls = {str(file["filename"]): str(file["url"]) for file in listing["files"]}
    except (KeyError, TypeError):
        raise DataeffError(f"{where}: this index lists no files in the form that {package.kind} has") from None
    if package.file not in urls:
        of_version = [name for name in urls if package.version in name]
        raise unknown_name("file", package.file, of_version or urls, where)
    return urljoin(page, urls[package.file])


def _read_index(page: str, where: str) -> Any:
    with open_address(page, {"Accept": f"{PYPI_JSON}, application/json;q=0.9"}) as response:
        body = response.read()
    try:
        return json.loads(body)
    except ValueError:
        raise DataeffError(f"{where}: this index does not answer in JSON (PEP 691); use one that does") from None
