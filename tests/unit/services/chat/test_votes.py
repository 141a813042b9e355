"""Votes outlive everything but their files, and their words say no more than they show."""

from dataclasses import replace
from pathlib import Path

import pytest

from studio.errors import BadInput, Conflict
from studio.recipe.fields import Data
from studio.services.chat import comparisons, votes
from studio.services.chat.chat import Answer, ChatState, Sampling
from studio.services.chat.comparisons import TIE, Turn
from studio.services.chat.participants import Side
from studio.services.core.keeper import Keeper
from studio.services.core.studio import Studio
from studio.settings import Settings


def side(key: str, written: str = "") -> Side:
    return Side(
        written or key, key, "Base" if key == "base" else f"{key}, step 3", f"m + {key}", "m", "float32", Data()
    )


def turn(*keys: str, blind: bool = True) -> Turn:
    begun = comparisons.ask([side(key) for key in keys], "Which?", Sampling(), blind=blind)
    return comparisons.with_answers(begun, ChatState("", tuple(Answer("said", done=True) for _ in keys), finished=True))


def test_the_tally_says_what_the_votes_show(studio: Studio) -> None:
    for number in range(20):
        one = turn("base", "run@3")
        better = "run@3" if number < 12 else "base" if number < 17 else TIE
        told = votes.cast(studio, one, better)
    assert (told.wins, told.losses, told.ties, told.second) == (12, 5, 3, "run@3")
    assert told.words == (
        "12 of 17 preferred the adapted model (3 ties left out), 95% interval 0.47 to 0.87: cannot tell yet."
    )
    for _ in range(20):
        told = votes.cast(studio, turn("run@3", "base"), "run@3")
    assert told.words.endswith("the adapted model is preferred.") and told.wins == 32
    assert votes.tally(studio, turn("base", "other@3")).words == "No votes yet."


def test_two_runs_are_called_by_their_names(studio: Studio) -> None:
    for _ in range(9):
        told = votes.cast(studio, turn("one@3", "two@3"), "one@3")
    assert told.words.startswith("0 of 9 preferred two@3, step 3") and told.words.endswith(
        "one@3, step 3 is preferred."
    )


def test_votes_are_files_and_survive_a_torn_line(settings: Settings) -> None:
    with Keeper(settings) as studio:
        one = turn("base", "run@3")
        votes.cast(studio, one, "base")
        votes.cast(studio, one, TIE)  # thought better of it
        (path,) = (settings.home / "votes").iterdir()
        with path.open("ab") as file:
            file.write(b'{"id": "torn')
        votes.cast(studio, turn("base", "run@3"), "run@3")
    for database in settings.home.glob("studio.db*"):
        database.unlink()
    with Keeper(settings) as studio:
        told = votes.tally(studio, one)
    assert (told.wins, told.losses, told.ties) == (1, 0, 1)


def test_what_is_no_vote_is_refused(studio: Studio) -> None:
    with pytest.raises(BadInput, match="not for 'nobody'"):
        votes.cast(studio, turn("base", "run@3"), "nobody")
    with pytest.raises(BadInput, match="compare two sides"):
        votes.cast(studio, turn("base", "a@1", "b@1"), "base")
    with pytest.raises(Conflict, match="both answers are finished"):
        votes.cast(studio, replace(turn("base", "run@3"), finished=False), "base")
    votes.cast(studio, turn("base", "../../etc/passwd@1"), "base")
    assert all(path.parent == Path(studio.settings.home / "votes") for path in studio.settings.home.rglob("*.jsonl"))


@pytest.mark.parametrize(("wins", "of", "low", "high"), [(0, 0, 0, 1), (12, 17, 0.469, 0.867), (10, 10, 0.722, 1)])
def test_wilsons_interval(wins: int, of: int, low: float, high: float) -> None:
    assert votes.wilson(wins, of) == pytest.approx((low, high), abs=1e-3)
