"""A dataset of the hub at one commit, as parquet; the library `datasets` knows which files it consists of."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

from dataeff.corpus.address import open_address, without_credentials
from dataeff.errors import DataeffError, unknown_name
from dataeff.study.tasks import HubData

HUB = "https://huggingface.co"


def hub_name(how: HubData) -> str:
    """For people: owner/name@commit and the configuration, if there are several."""
    return f"{how.repository}@{how.revision}" + (f" ({how.config})" if how.config else "")


def write_hub_splits(name: str, how: HubData, scratch: Path, folder: Path, remedy: str) -> dict[str, dict[str, Any]]:
    """Writes folder/{split}.parquet with the hub's own feature types; items and columns of each split.

    `scratch` is for this fetch alone: out of an old folder of its own the library would, when the hub does not answer,
    take another commit's data unasked.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        with _one_error(name, how, remedy):
            _knock(how)
            loaded = _load(how, scratch)
        for split in how.splits:
            if split not in loaded:
                raise unknown_name("split", split, loaded, f"dataset {name}, {hub_name(how)}")
        for split in how.splits:
            loaded[split].to_parquet(folder / f"{split}.parquet")
        return {split: {"items": loaded[split].num_rows, "columns": loaded[split].column_names} for split in how.splits}
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _knock(how: HubData) -> None:
    """One question, so that a machine without a network says so at once: the library asks for half a minute."""
    hub = (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")
    url = f"{hub}/api/datasets/{how.repository}/revision/{how.revision}"
    try:
        open_address(url, {}, os.environ.get("HF_TOKEN")).close()
    except HTTPError:
        return  # The hub is there; what is wrong the library says better, and it may know a token that we do not.
    except OSError as error:
        raise OSError(f"{without_credentials(hub)}: {getattr(error, 'reason', error)}") from None


def _load(how: HubData, scratch: Path) -> Any:
    from datasets import disable_progress_bars, load_dataset

    disable_progress_bars()
    return load_dataset(how.repository, how.config, revision=how.revision, cache_dir=str(scratch))


@contextmanager
def _one_error(name: str, how: HubData, remedy: str) -> Iterator[None]:
    """The library raises anything from OSError to errors of its HTTP client: all mean that the data did not come."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split()) or "no reason given"
        raise DataeffError(
            f"dataset {name}: {hub_name(how)} cannot be had from the hub ({type(error).__name__}: {reason:.300}). "
            f"Check the network, HF_ENDPOINT, and HF_TOKEN if the dataset asks for one; or {remedy}"
        ) from None
