"""The load tool cannot be told to go on without end, nor to ask anybody but the studio that it serves itself."""

import pytest

from benchmarks.load import MOST_MINUTES, MOST_PEOPLE, wished


@pytest.mark.parametrize(
    ("words", "said"),
    [(["--minutes", "0"], "--minutes"), (["--minutes", f"{MOST_MINUTES + 1}"], "--minutes"),
     (["--minutes", "inf"], "--minutes"), (["--minutes", "nan"], "--minutes"), (["--people", "0"], "--people"),
     (["--people", f"{MOST_PEOPLE + 1}"], "--people"), (["--url", "http://example.com"], "unrecognized")],
)  # fmt: skip
def test_what_is_without_bound_is_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        wished(words)
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_the_most_may_be_asked_for() -> None:
    asked = wished(["--people", str(MOST_PEOPLE), "--minutes", str(MOST_MINUTES)])
    assert (asked.people, asked.minutes, asked.floods) == (200, 60, False)
