import numpy as np

from dataeff.study.types import TokenDrop
from dataeff.token_counts import effective_tokens, kept_rows, layer_tokens, reshaped_rows


def test_effective_tokens_are_floored_per_row() -> None:
    # 8 rows of 10 tokens, 3 of 4 layers keep 3: (10 * 1 + 3 * 3) // 4 = 4 a row
    assert effective_tokens(np.array([8]), np.array([10]), np.array([3]), 4, 3)[0] == 32
    assert effective_tokens(np.array([8]), np.array([10]), np.array([99]), 4, 3)[0] == 80


def test_reshaped_rows_equal_the_published_tokens() -> None:
    """s = 1504 at 512 samples of 2049: 962,560 tokens at micro-batch 8, 1,540,096 at 1, 1,049,792 at 512."""
    length = np.array([1504])
    tokens = {micro: int(reshaped_rows(micro, 2048, length)[0]) * (512 // micro) * 1504 for micro in (8, 1, 512)}
    assert tokens == {8: 962_560, 1: 1_540_096, 512: 1_049_792}
    assert reshaped_rows(512, 2048, np.array([2048]))[0] == 512


def test_dropped_samples_leave_at_least_one_row() -> None:
    rows, length = np.array([8, 8, 8]), np.array([16, 16, 16])
    assert kept_rows(rows, length, np.array([16, 7, 1])).tolist() == [8, 3, 1]


def test_layer_tokens_by_hand() -> None:
    """8 rows of 16 tokens, 2 of 4 layers drop down to 7: 2 * 128 + 2 * 8 * 7, or 3 whole rows of 16."""
    rows, length, kept = np.array([8]), np.array([16]), np.array([7])
    pacing = {"start": "1/4", "end": 1, "over": 1}
    tokens = TokenDrop.model_validate({"pacing": pacing})
    samples = TokenDrop.model_validate({"pacing": pacing, "route": "samples"})
    assert layer_tokens(rows, length, kept, 4, 2, tokens)[0] == 2 * 128 + 2 * 8 * 7
    assert layer_tokens(rows, length, kept, 4, 2, samples)[0] == 2 * 128 + 2 * 3 * 16
    assert layer_tokens(rows, length, kept, 4, 0, None)[0] == 4 * 8 * 16
