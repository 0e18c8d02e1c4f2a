import time

import pytest

from dataeff.progress import Pace, Progress, clock


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (65, "1:05"), (3725, "1:02:05"), (-3, "0:00")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_a_line_is_due_every_few_seconds_only(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    pace = Pace(total=1000, done=200, every_seconds=3)
    now[0] = 102.0
    assert pace.reading(300) is None
    now[0] = 104.0
    reading = pace.reading(400)
    assert reading is not None
    assert reading.rate == pytest.approx(50)  # the 200 that were done before do not count as speed
    assert reading.left == "0:12 left"
    assert pace.reading(450) is None


def test_no_pace_yet_is_said_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert Pace(total=10).reading(0, now=True).left == "time left unknown"  # type: ignore[union-attr]
    Progress("tokens 00", 10, "documents").show(5)
    assert capsys.readouterr().out == ""
