"""The bundled samples: each is ready to train, and the tool calls follow from their questions."""

import json
from typing import Any

import pytest

from benchmarks import tools_sample
from studio.errors import BadInput
from studio.services.core.studio import Studio
from studio.services.data import datasets
from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "data" / "samples"
TRAIN, HELD_OUT = tools_sample.rows()


def _question(row: dict[str, Any]) -> str:
    return str(row["messages"][1]["content"])


def test_the_tools_sample_is_what_its_generator_writes() -> None:
    assert (FOLDER / "tools_train.jsonl").read_text(encoding="utf-8") == tools_sample.text(TRAIN)
    assert (FOLDER / "tools_heldout.jsonl").read_text(encoding="utf-8") == tools_sample.text(HELD_OUT)
    assert (len(TRAIN), len(HELD_OUT)) == (160, 40)


def test_arguments_stand_in_the_question_and_no_question_is_asked_twice() -> None:
    rows = [*TRAIN, *HELD_OUT]
    assert len(set(map(_question, rows))) == len(rows)
    seen: dict[str, bool] = {}
    for row in rows:
        calls = row["messages"][2].get("tool_calls", ())
        for function in (call["function"] for call in calls):
            arguments = json.loads(function["arguments"])
            if function["name"] == "open_ticket":
                assert arguments["topic"] in tools_sample.TOPICS
                urgent = "urgent" in _question(row).replace("Not urgent", "").lower()
                assert urgent == (arguments["priority"] == "high")
            else:
                assert all(str(value) in _question(row) for value in arguments.values())
                value = " ".join(map(str, arguments.values()))
                assert seen.setdefault(value, row in HELD_OUT) == (row in HELD_OUT), "trained and held out"


@pytest.mark.parametrize(("name", "rows", "held_out"), [("tickets", 360, 60), ("tools", 200, 40)])
def test_a_sample_is_ready_to_train(studio: Studio, name: str, rows: int, held_out: int) -> None:
    info = datasets.add_sample(studio, name)
    assert (info.name, info.rows, info.held_out, info.rejected, info.mark) == (name, rows, held_out, 0, "good")
    assert info.findings == {} and info.verdict.startswith("Ready to train")


def test_an_unknown_sample_lists_the_known_ones(studio: Studio) -> None:
    with pytest.raises(BadInput, match=r"There is no sample 'cats'.*known: tickets, tools"):
        datasets.add_sample(studio, "cats")
