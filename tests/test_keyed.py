import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataeff import keyed

WORDS = st.integers(0, 2**64 - 1)


def word(key: int, number: int) -> int:
    return int(keyed.word(np.uint64(key), np.uint64(number)))


def below(key: int, number: int, size: int) -> int:
    return int(keyed.below(np.uint64(key), np.uint64(number), np.uint64(size)))


@pytest.mark.parametrize(
    ("seed", "published"),
    [
        (0, [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC, 0x1B39896A51A8749B]),
        (
            1234567,
            [
                6457827717110365317,
                3203168211198807973,
                9817491932198370423,
                4593380528125082431,
                16408922859458223821,
            ],
        ),
    ],
)
def test_words_are_splitmix64(seed: int, published: list[int]) -> None:
    assert [word(seed, number) for number in range(5)] == published


@given(WORDS, st.integers(0, 2**40), st.integers(1, 2**64 - 1))
@settings(deadline=None)
def test_below_is_the_high_half_of_the_product(key: int, number: int, size: int) -> None:
    """In whole numbers of any length; redrawn while the low half lies below 2**64 mod size."""
    drawn = word(key, number)
    while drawn * size % 2**64 < 2**64 % size:
        drawn = word(drawn, number)
    assert below(key, number, size) == drawn * size >> 64 < size


def test_below_favours_no_number_of_a_range_that_does_not_divide_the_words() -> None:
    """Without redrawing, 4 words would share 3 numbers of 3 * 2**62: those divisible by 3 would come twice as often."""
    counts = np.bincount([below(9, number, 3 * 2**62) % 3 for number in range(30_000)], minlength=3)
    assert ((counts - 10_000) ** 2 / 10_000).sum() < 13.8  # chi-squared, 2 degrees of freedom, 0.1% level


@given(st.integers(1, 5000), WORDS)
@settings(deadline=None)
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
    assert keyed.permute(np.arange(6).reshape(2, 3), 6, 1).shape == (2, 3)


def test_permute_spreads_positions_evenly() -> None:
    """Where position 0 lands over many keys is uniform: chi-squared over 10 cells, 0.1% level (27.9)."""
    landing = keyed.permute(np.zeros(10_000, int), 100, np.arange(10_000, dtype=np.uint64))
    counts = np.histogram(landing, bins=10, range=(0, 100))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 27.9


def test_permute_holds_for_ranges_beyond_32_bits() -> None:
    sizes = np.array([2**32, 2_500_000_000, 2**40 + 1, 2**63 - 1])
    image = keyed.permute(sizes - 1, sizes, 3)
    assert ((image >= 0) & (image < sizes)).all()
    assert len(set(keyed.permute(np.arange(100), 2**63 - 1, 3).tolist())) == 100


def test_a_position_outside_is_refused() -> None:
    with pytest.raises(ValueError, match="outside"):
        keyed.permute(np.array([5]), 5, 1)


def test_keys_and_permutations_are_stable_across_versions() -> None:
    """Corpora and orders on disk depend on them."""
    assert keyed.key(1234, "pass", 0, 1) == 13883407109807340915
    assert keyed.generator(1, "counts", 2).integers(0, 1000, 3).tolist() == [713, 532, 135]
    assert keyed.permute(np.arange(8), 8, 42).tolist() == [2, 7, 4, 0, 5, 3, 6, 1]
    assert keyed.permute(np.arange(3), 10**12, 42).tolist() == [471765562127, 970225013163, 891315962601]
