"""The order of length buckets: passes without replacement, buckets by their tokens, any step at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from dataeff.bucket_plan import Buckets
from dataeff.errors import DataeffError
from dataeff.files import read_json, write_json
from dataeff.order import SPACING, SampleOrder
from dataeff.order_buckets import BucketOrder, load_order

SIZES = Buckets((8, 16, 32, 64), (500, 0, 90, 40))


def order_of(
    steps: int = 200, seed: int = 1, buckets: Buckets = SIZES, levels: np.ndarray | None = None
) -> BucketOrder:
    """By default all buckets are open from the first step on, and a step has 4 x 64 tokens."""
    opened = np.full(steps, buckets.lengths[-1]) if levels is None else levels
    return BucketOrder.build(seed=seed, step_tokens=4 * buckets.lengths[-1], levels=opened, buckets=buckets)


def of_bucket(order: BucketOrder, ids: np.ndarray) -> int:
    """The bucket that all of these samples are of."""
    ends = np.cumsum(order.sizes)
    (bucket,) = set(np.searchsorted(ends, ids, side="right").tolist())
    return int(bucket)


shapes = st.tuples(
    st.lists(st.integers(0, 60), min_size=1, max_size=5).filter(any),
    st.integers(1, 60),
    st.integers(0, 2**32),
    st.randoms(use_true_random=False),
)


@given(shapes)
@settings(max_examples=60, deadline=None)
def test_every_step_has_its_tokens_of_one_open_bucket(shape: tuple) -> None:
    """And each pass over a bucket reads each of its samples once, whatever is open when."""
    samples, steps, seed, random = shape
    buckets = Buckets(tuple(8 << power for power in range(len(samples))), tuple(samples))
    levels = np.array(sorted(random.randint(1, buckets.lengths[-1]) for _ in range(steps)))
    order = order_of(seed=seed, buckets=buckets, levels=levels)
    lengths, rows = order.shapes()
    read: dict[int, list[int]] = {}
    for step, ids in enumerate(order.iterate()):
        bucket = of_bucket(order, ids)
        assert order.lengths[bucket] == lengths[step]
        assert lengths[step] <= levels[step] or bucket == 0
        assert len(ids) == rows[step]
        assert len(ids) * lengths[step] == order.step_tokens
        assert ids.tolist() == order.samples(step).tolist()
        read.setdefault(bucket, []).extend(ids.tolist())
    for bucket, ids in read.items():
        first, size = int(order.sizes[:bucket].sum()), int(order.sizes[bucket])
        for begin in range(0, len(ids), size):
            once = ids[begin : begin + size]
            assert len(set(once)) == len(once)
            assert set(once) <= set(range(first, first + size))


def test_passes_are_shuffled_anew() -> None:
    order = order_of(steps=400)
    read = np.concatenate([ids for ids in order.iterate() if of_bucket(order, ids) == 2])  # 4 of 40 samples a step
    passes = read[: len(read) // 40 * 40].reshape(-1, 40)
    assert len(passes) > 5
    assert len({tuple(row) for row in passes.tolist()}) == len(passes)
    assert not any((row == np.sort(row)).all() for row in passes)


def test_buckets_are_drawn_by_their_tokens() -> None:
    """All open: 4000, 2880 and 2560 tokens. With levels below 64, the last is closed."""
    drawn = order_of(steps=20_000).drawn(0, 20_000)
    assert chisquare(np.bincount(drawn), 20_000 * np.array([4000, 2880, 2560]) / 9440).pvalue > 0.001
    closed = order_of(levels=np.full(20_000, 63)).drawn(0, 20_000)
    assert chisquare(np.bincount(closed), 20_000 * np.array([4000, 2880]) / 6880).pvalue > 0.001
    assert (closed != order_of(levels=np.full(20_000, 63), seed=2).drawn(0, 20_000)).any()


def test_every_sample_is_read_about_equally_often_once_all_are_open() -> None:
    order = order_of(steps=3000)
    reads = np.bincount(np.concatenate(list(order.iterate())), minlength=630)
    by_bucket = [part.mean() for part in np.split(reads, [500, 590])]
    assert max(by_bucket) / min(by_bucket) < 1.1
    for part in np.split(reads, [500, 590]):
        assert part.max() - part.min() <= 1


def test_a_bucket_opens_at_its_step_and_the_shortest_always_is() -> None:
    levels = np.repeat([1, 20, 32, 64], 25)
    order = order_of(levels=levels)
    assert order.lengths.tolist() == [8, 32, 64]
    assert order.opens_at.tolist() == [0, 50, 75]
    assert order.pool_sizes().tolist() == [500] * 50 + [590] * 25 + [630] * 25
    without_short = order_of(levels=levels, buckets=Buckets((8, 16, 32, 64), (0, 0, 90, 40)))
    assert without_short.opens_at.tolist() == [0, 75]
    assert set(without_short.shapes()[0][:75].tolist()) == {32}


def test_a_bucket_that_never_opens_is_never_read() -> None:
    order = order_of(levels=np.full(300, 32))
    assert order.opens_at.tolist() == [0, 0, 300]
    assert set(order.shapes()[0].tolist()) == {8, 32}


def test_fewer_samples_than_a_step_takes_go_round() -> None:
    order = order_of(steps=60, buckets=Buckets((8, 16), (3, 0)))
    assert {max(np.bincount(ids)) for ids in order.iterate()} == {3, 4}  # 8 of 3: parts of three or four passes
    assert (np.bincount(np.concatenate(list(order.iterate()))) == 60 * 8 // 3).all()


@pytest.mark.parametrize("step", [0, 1, SPACING - 1, SPACING, 2 * SPACING + 17, 2999])
def test_any_step_and_any_resume(step: int) -> None:
    order = order_of(levels=np.linspace(8, 64, 3000).astype(np.int64))
    whole = list(order.iterate())
    assert order.samples(step).tolist() == whole[step].tolist()
    for resumed, expected in zip(order.iterate(step), whole[step:], strict=True):
        assert resumed.tolist() == expected.tolist()
    assert order.before(step).sum() == step


def test_a_step_does_not_depend_on_the_run_s_length() -> None:
    longer, shorter = order_of(steps=3000), order_of(steps=100)
    assert all((there == here).all() for here, there in zip(shorter.iterate(), longer.iterate(), strict=False))
    with pytest.raises(IndexError):
        shorter.samples(100)


def test_numbers_of_one_order() -> None:
    """On every machine the same."""
    order = order_of()
    assert order.shapes()[0][:12].tolist() == [8, 64, 8, 32, 32, 64, 8, 8, 8, 32, 8, 8]
    assert order.samples(0)[:6].tolist() == [230, 188, 238, 432, 123, 245]
    assert order.samples(199)[:4].tolist() == [604, 629, 598, 612]


def test_saved_and_loaded(tmp_path: Path) -> None:
    order = order_of(steps=2500)
    order.save(tmp_path / "order.json")
    again = load_order(tmp_path / "order.json")
    assert isinstance(again, BucketOrder)
    assert again.digest == order.digest
    assert again.admission is None
    assert all((here == there).all() for here, there in zip(order.iterate(2000), again.iterate(2000), strict=True))


def test_the_digest_is_of_everything() -> None:
    orders = [
        order_of(),
        order_of(seed=2),
        order_of(steps=201),
        order_of(levels=np.repeat([8, 64], 100)),
        order_of(buckets=Buckets((8, 16, 32, 64), (500, 0, 90, 41))),
        order_of(buckets=Buckets((8, 16, 32, 64), (500, 90, 0, 40))),
    ]
    assert len({order.digest for order in orders}) == len(orders)


def test_the_other_kind_of_order_is_told_by_its_file(tmp_path: Path) -> None:
    order = SampleOrder.build(seed=1, batch_size=4, pool_sizes=np.full(10, 100), admission=None)
    order.save(tmp_path / "order.json")
    assert isinstance(load_order(tmp_path / "order.json"), SampleOrder)


@pytest.mark.parametrize("change", [{"step_tokens": 128}, {"sizes": [500, 90, 41]}, {"seed": "x"}, {"digest": "0"}])
def test_an_edited_order_is_refused(tmp_path: Path, change: dict) -> None:
    order_of().save(tmp_path / "order.json")
    write_json(tmp_path / "order.json", {**read_json(tmp_path / "order.json"), **change})
    with pytest.raises(DataeffError, match=r"order\.json: .*run `dataeff plan` again"):
        load_order(tmp_path / "order.json")


def test_counts_of_another_order_are_refused(tmp_path: Path) -> None:
    order_of(steps=3000).save(tmp_path / "order.json")
    np.save(tmp_path / "counts.npy", np.zeros((3, 3), dtype=np.int64))
    with pytest.raises(DataeffError, match=r"or counts\.npy does not"):
        load_order(tmp_path / "order.json")
