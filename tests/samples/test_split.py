"""Which documents a split leaves to train on."""

import pytest

from dataeff.errors import DataeffError
from dataeff.samples.split import parse_split, training_documents


@pytest.mark.parametrize(
    ("text", "documents", "training"),
    [
        ("949,50,1", 1000, 949),
        ("949,50,1", 10, 10),  # 9 + 0 + 0 are one too few
        ("949,50,1", 210_607_728, 199_866_734),
        ("1,0,0", 7, 7),
        ("1", 7, 7),
        ("98/2", 50, 49),
        ("1,1,1", 8, 2),  # 3 + 3 + 3 are one too many, which is taken off every bound
        ("1,1,1", 10, 4),  # 3 + 3 + 3 likewise
    ],
)
def test_rounding(text: str, documents: int, training: int) -> None:
    assert training_documents(parse_split(text), documents) == training


def test_all_documents_without_a_split() -> None:
    assert training_documents(None, 5) == 5


@pytest.mark.parametrize("text", ["", "a,b", "0,1,1", "-1,2,3"])
def test_no_split(text: str) -> None:
    with pytest.raises(DataeffError, match="949,50,1"):
        parse_split(text)


def test_nothing_to_train_on() -> None:
    with pytest.raises(DataeffError, match="no document of 3"):
        training_documents(parse_split("1,500,499"), 3)
