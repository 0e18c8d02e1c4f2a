import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataeff import keyed


@given(st.integers(1, 5000), st.integers(0, 2**64 - 1))
def test_permute_is_a_permutation(size: int, key: int) -> None:
    image = keyed.permute(np.arange(size), size, key)
    assert sorted(image.tolist()) == list(range(size))


def test_permute_depends_on_its_key_and_on_nothing_else() -> None:
    first = keyed.permute(np.arange(1000), 1000, keyed.key(1, "pass", 0))
    assert (first == keyed.permute(np.arange(1000), 1000, keyed.key(1, "pass", 0))).all()
    assert (first != keyed.permute(np.arange(1000), 1000, keyed.key(1, "pass", 1))).mean() > 0.9
    assert first[7] == keyed.permute(np.array([7]), 1000, keyed.key(1, "pass", 0))[0]


def test_permute_broadcasts_sizes_and_keys() -> None:
    sizes, keys = np.array([3, 1000]), np.array([5, 6], dtype=np.uint64)
    both = keyed.permute(np.array([2, 2]), sizes, keys)
    assert both.tolist() == [keyed.permute(np.array([2]), 3, 5)[0], keyed.permute(np.array([2]), 1000, 6)[0]]


def test_permute_spreads_positions_evenly() -> None:
    """Where position 0 lands over many keys is uniform: chi-squared over 10 cells, 0.1% level (27.9)."""
    landing = keyed.permute(np.zeros(10_000, int), 100, np.arange(10_000, dtype=np.uint64))
    counts = np.histogram(landing, bins=10, range=(0, 100))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 27.9


def test_a_position_outside_is_refused() -> None:
    with pytest.raises(ValueError, match="outside"):
        keyed.permute(np.array([5]), 5, 1)


def test_keys_are_stable_across_versions() -> None:
    assert keyed.key(1234, "pass", 0, 1) == 13883407109807340915
    assert keyed.generator(1, "counts", 2).integers(0, 1000, 3).tolist() == [713, 532, 135]
