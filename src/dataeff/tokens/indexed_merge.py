"""One pair of token files from several, and a second index for DeepSpeed's reader over the bytes of a pair.

Samples take many token files as one dataset by reference, so nobody needs to merge for this project; `merge` is for
tools that take one Megatron prefix. Token files carry Megatron's type codes, since Megatron is what trains on them;
DeepSpeed's MMapIndexedDataset takes 8 (uint16) for uint64, so it gets an index with its own code, and no copy of the
tokens.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataeff.errors import DataeffError
from dataeff.files import atomic_path, temporary_sibling
from dataeff.tokens.index_format import HEADER, MAGIC, VERSION, bin_path, idx_path, type_code
from dataeff.tokens.indexed_dataset import IndexedDataset
from dataeff.tokens.indexed_writer import SequenceWriter, index_writer

_ROWS = 1 << 18
# What a file system answers that has no hard link to give.
_NO_LINK = {errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EMLINK}


def merge(prefixes: Sequence[Path], out_prefix: Path) -> int:
    """The sequences and documents of all token files in one Megatron pair, in order; the number of tokens.

    The same bytes as encoding all the text into one pair. Memory does not grow with the files.
    """
    datasets = [IndexedDataset(prefix) for prefix in prefixes]
    if not datasets:
        raise DataeffError(f"{out_prefix}: nothing to merge; give the prefix (the name less .bin) of at least one pair")
    first = datasets[0]
    for dataset in datasets:
        if dataset.dtype != first.dtype:
            raise DataeffError(
                f"{dataset.prefix}: its tokens are {dataset.dtype}, those of {first.prefix} {first.dtype}; merge files "
                f"made with one tokenizer"
            )
    with index_writer(out_prefix, first.dtype) as writer:
        for dataset in datasets:
            _append(writer, dataset)
    return writer.token_count


def _append(writer: SequenceWriter, dataset: IndexedDataset) -> None:
    before = writer.sequence_count
    with bin_path(dataset.prefix).open("rb") as source:
        writer.add_file(source, _parts(dataset, dataset.sizes))
    for entries in _parts(dataset, dataset.document_index[1:]):
        writer.end_documents(before + entries)


def link_for_deepspeed(prefix: Path, out_prefix: Path) -> None:
    """Makes {out_prefix}.idx with DeepSpeed's type codes and {out_prefix}.bin as a link to the tokens.

    A hard link, or a symbolic one where the file system has no hard link to give (another disk).
    """
    out_prefix = Path(out_prefix)
    if out_prefix.resolve() == Path(prefix).resolve():
        raise DataeffError(f"{out_prefix}: these are the token files themselves; give DeepSpeed's another name")
    dataset = IndexedDataset(prefix)
    code = type_code(out_prefix, dataset.dtype, "deepspeed")
    with atomic_path(idx_path(out_prefix)) as temporary:
        with temporary.open("wb") as stream:
            sequences, entries = len(dataset), len(dataset.document_index)
            stream.write(HEADER.pack(MAGIC, VERSION, code, sequences, entries))
            for array in (dataset.sizes, dataset.pointers, dataset.document_index):
                for part in _parts(dataset, array):
                    stream.write(part.tobytes())
        idx_path(out_prefix).unlink(missing_ok=True)
        _link(bin_path(dataset.prefix).resolve(), bin_path(out_prefix))


def _link(target: Path, link: Path) -> None:
    temporary = temporary_sibling(link)
    temporary.unlink(missing_ok=True)
    try:
        temporary.hardlink_to(target)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        temporary.symlink_to(target)
    temporary.replace(link)


def _parts(dataset: IndexedDataset, array: NDArray[np.integer[Any]]) -> Iterator[NDArray[np.integer[Any]]]:
    """An array of the index in parts, each given back to the system before the next."""
    for first in range(0, len(array), _ROWS):
        yield array[first : first + _ROWS]
        dataset.release()
