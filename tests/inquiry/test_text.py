from hypothesis import given
from hypothesis import strategies as st

from dataeff.inquiry.text import WIDTH, columns, dollars, hours, labelled, rate, ruled, short


def test_counts() -> None:
    found = [short(count) for count in (0, 12, 999, 41_000, 999_999, 300e9, 1_048_576_000_000)]
    assert found == ["0", "12", "999", "41.0K", "1.0M", "300.0B", "1,048.6B"]


def test_rates_hours_dollars() -> None:
    assert [rate(value) for value in (0, 4e-4, 1.5e-3)] == ["0", "4e-4", "1.5e-3"]
    assert rate(4e-4, aligned=True) == "4.00e-4"
    assert [hours(value) for value in (0, 1e-5, 0.21, 71.44, 16_609.4)] == ["0", "<0.01", "0.21", "71.4", "16,609"]
    assert [dollars(value) for value in (0, 1e-4, 2.5, 46_714.2)] == ["$0.00", "<$0.01", "$2.50", "$46,714"]


def test_columns_are_aligned() -> None:
    lines = ruled(columns([["run", "steps"], ["a", "10"], ["longer", "2,000"]]))
    assert lines == ["run     steps", "-------------", "a          10", "longer  2,000"]


@given(st.lists(st.text("abc ", max_size=300), min_size=1, max_size=4))
def test_wrapped_text_is_whole_and_fits(texts: list[str]) -> None:
    pairs = [(f"label {index}", text) for index, text in enumerate(texts)]
    lines = labelled(pairs)
    assert all(len(line) <= WIDTH for line in lines if max(map(len, line.split() or [""])) < 80)
    words = " ".join(lines).split()
    assert words == [word for label, text in pairs for word in (*label.split(), *text.split())]
