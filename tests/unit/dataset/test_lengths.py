"""Token counts: exact, kept on disk, and what a cut costs."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from studio.dataset.store import read_records
from studio.dataset.tokens import cache as kept
from studio.dataset.tokens import lengths
from studio.dataset.tokens.counts import Counts
from studio.dataset.tokens.encode import Encoder, Refused, Tokenised
from studio.dataset.tokens.remarks import Remark
from studio.dataset.tokens.training_set import encode_dataset
from studio.errors import BadInput
from studio.recipe.fields import Data
from studio.services.core.keeper import Keeper
from studio.services.data import datasets
from studio.settings import Settings
from tests.conftest import write_jsonl
from tests.tiny import CHATML, tiny_model


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a dataset of conversations of one to three rounds."""
    rows: list[dict[str, Any]] = []
    for number in range(30):
        turns = [
            message
            for turn in range(number % 3 + 1)
            for message in (
                {"role": "user", "content": f"Question {number}.{turn} " + "?" * number},
                {"role": "assistant", "content": f"Answer {turn}" + "!" * (number % 7)},
            )
        ]
        rows.append({"messages": turns})
    folder = tmp_path_factory.mktemp("talks")
    with Keeper(Settings(home=folder / "home", offline=True)) as opened:
        return Path(datasets.add(opened, write_jsonl(folder / "talks.jsonl", rows)).path)


def test_counts_are_those_of_the_encoder(talks: Path, tiny: Path, tmp_path: Path) -> None:
    for train_on in ("completions", "assistant", "everything"):
        data = Data.model_validate({"train_on": train_on})
        progress = Mock()
        counts = lengths.count(talks, tiny, data, tmp_path / "cache", progress)
        wholes = Encoder(tiny, data).encode(read_records(talks))
        assert counts.rows.tolist() == [whole.row for whole in wholes]
        assert counts.totals.tolist() == [len(whole.input_ids) for whole in wholes]
        found = [list(zip(counts.starts[a:b], counts.ends[a:b], strict=True))
                 for a, b in zip(counts.offsets[:-1], counts.offsets[1:], strict=True)]  # fmt: skip
        assert found == [list(whole.spans) for whole in wholes]
        assert progress.call_args.args == (30, 30)


@pytest.mark.parametrize("max_length", [8, 60, 90, 120, 160, 4096])
@pytest.mark.parametrize("train_on", ["completions", "assistant"])
def test_a_cut_costs_what_training_loses(
    talks: Path, tiny: Path, tmp_path: Path, train_on: str, max_length: int
) -> None:
    data = Data.model_validate({"train_on": train_on, "max_length": max_length, "held_out": 0})
    counts = lengths.count(talks, tiny, data, tmp_path)
    cut = counts.at(max_length)
    wholes = Encoder(tiny, data).encode(read_records(talks))
    lost = [label for whole in wholes for label in whole.cut(10**6).labels[max_length:]]
    assert (cut.tokens_lost, cut.trained_lost) == (len(lost), sum(label != -100 for label in lost))
    assert cut.answers_lost == sum(start >= max_length for whole in wholes for start, _ in whole.spans)
    made = encode_dataset(talks, data, tiny, seed=0)
    assert (made.truncated, made.skipped) == (cut.rows_cut, cut.rows_untrained)
    assert len(counts.cut(max_length)) == cut.rows_cut
    assert len(counts.untrained(max_length)) == cut.rows_untrained
    lost_at = [place for place, whole in enumerate(wholes) if any(start >= max_length for start, _ in whole.spans)]
    assert counts.lost(max_length).tolist() == lost_at


def made_of(*totals: int) -> Counts:
    """Counts of rows whose last token is trained."""
    rows = np.array(totals, dtype=np.int32)
    kept = rows[rows > 0]
    return Counts(
        rows=np.arange(1, len(rows) + 1, dtype=np.int32),
        totals=rows,
        held_out=np.zeros(len(rows), np.bool_),
        offsets=np.concatenate([[0], np.cumsum(rows > 0)]).astype(np.int32),
        starts=kept - 1,
        ends=kept,
        remarks=np.zeros(len(rows), np.int32),
        left_out=np.zeros(len(rows), np.int32),
    )


def test_summary_and_histogram() -> None:
    counts = made_of(*range(1, 101), 0)
    assert counts.summary() == {"min": 1, "p50": 50, "p95": 95, "max": 100, "total": 5050, "trained": 100}
    edges, bars = counts.histogram(bins=7)
    assert sum(bars) == 100 and len(edges) == len(bars) + 1 <= 8
    assert edges[0] == 1 and edges[-1] > 100
    assert [sum(low <= total < high for total in counts.totals) for low, high in itertools.pairwise(edges)] == bars
    for rows in ([5], [5, 5, 5], [1, 2], [1, 40], [1, 41], [3, 500_000]):
        edges, bars = made_of(*rows).histogram()
        assert sum(bars) == len(rows) and len(bars) <= 40 and len(edges) == len(bars) + 1
    assert made_of().summary()["max"] == 0 and made_of(0).histogram() == ([0, 1], [0])


def test_they_are_kept_until_something_that_shapes_them_changes(
    talks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, cache = tiny_model(tmp_path / "model"), tmp_path / "cache"
    first = lengths.count(talks, model, Data(), cache)
    assert lengths.is_counted(talks, model, Data(max_length=16, held_out=0.5), cache)
    for data in (Data(train_on="everything"), Data(system_prompt="Be brief."), Data(template="alpaca")):
        assert not lengths.is_counted(talks, model, data, cache)
    with monkeypatch.context() as patch:
        patch.setattr(lengths, "Encoder", None)  # nothing is counted again
        again = lengths.count(talks, model, Data(max_length=16), cache)
    for name in ("rows", "totals", "held_out", "offsets", "starts", "ends"):
        assert getattr(again, name).tolist() == getattr(first, name).tolist()
        assert getattr(again, name).dtype == getattr(first, name).dtype
    (model / "chat_template.jinja").write_text(CHATML + " ")
    assert not lengths.is_counted(talks, model, Data(), cache)
    assert lengths.count(talks, model, Data(), cache).totals.tolist() == (first.totals + 1).tolist()


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 no archive", None])
def test_a_damaged_file_is_made_anew(talks: Path, tiny: Path, tmp_path: Path, damage: bytes | None) -> None:
    first = lengths.count(talks, tiny, Data(), tmp_path)
    (path,) = tmp_path.glob("*.npz")
    path.write_bytes(path.read_bytes()[:-200] if damage is None else damage)
    assert lengths.count(talks, tiny, Data(), tmp_path).totals.tolist() == first.totals.tolist()
    assert [item.name for item in tmp_path.glob("*") if item.name != "home"] == [path.name]
    assert lengths.is_counted(talks, tiny, Data(), tmp_path)


def test_a_folder_that_cannot_be_written_costs_only_the_next_count(talks: Path, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    assert len(lengths.count(talks, tiny, Data(), tmp_path / "cache")) == 30


def test_refused_rows_keep_their_place(talks: Path, tmp_path: Path) -> None:
    picky = "{% if messages | length > 4 %}{{ raise_exception('too long') }}{% endif %}" + CHATML
    counts = lengths.count(talks, tiny_model(tmp_path / "picky", picky), Data(), tmp_path / "cache")
    again = lengths.count(talks, tmp_path / "picky", Data(), tmp_path / "cache")
    assert again.refused == counts.refused
    assert counts.refused.total == 10
    assert [row for row, _ in counts.refused.rows] == list(range(3, 31, 3))
    assert counts.untrained(4096).tolist() == list(range(2, 30, 3))
    assert len(counts) == 30 and counts.summary()["min"] > 0
    noted = Refused()
    for row in range(2000):
        noted.add(row, "no")
    assert (noted.total, len(noted.rows)) == (2000, 1000)


def test_measure_is_quick_for_many_rows_and_exact_once_they_are_counted(
    talks: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lengths, "_ALL", 10)
    monkeypatch.setattr(lengths, "_LONGEST", 3)
    sampled = lengths.measure(talks, tiny, Data(), tmp_path)
    counts = lengths.count(talks, tiny, Data(), tmp_path)
    exact = lengths.measure(talks, tiny, Data(), tmp_path)
    assert (sampled.exact, exact.exact) == (False, True)
    assert sampled.rows == exact.rows == 30
    assert sampled.longest == exact.longest == counts.summary()["max"]
    assert exact.mean == pytest.approx(counts.totals.mean())
    assert exact.trained_share == pytest.approx(counts.summary()["trained"] / counts.summary()["total"])
    deaf = tiny_model(tmp_path / "deaf", "{{ raise_exception('never') }}")
    with pytest.raises(BadInput, match=r"no text for any of the examples\. Row 1: .*never"):
        lengths.measure(talks, deaf, Data(), tmp_path)


@pytest.mark.parametrize("train_on", ["completions", "assistant", "everything"])
def test_kept_tokens_are_those_that_would_be_made(
    talks: Path, tiny: Path, tmp_path: Path, train_on: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Data.model_validate({"train_on": train_on, "max_length": 90, "held_out": 0.2})
    plain = encode_dataset(talks, data, tiny, seed=0)
    assert plain.train and plain.held_out and plain.truncated
    assert encode_dataset(talks, data, tiny, 0, cache=tmp_path) == plain  # made, and kept
    # A page that counts tokens keeps them for the run that follows.
    lengths.count(talks, tiny, data.model_copy(update={"system_prompt": "Be brief."}), tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr("studio.dataset.tokens.lengths.Encoder", None)
        assert encode_dataset(talks, data, tiny, 0, cache=tmp_path) == plain
        briefly = data.model_copy(update={"system_prompt": "Be brief.", "max_length": 200})
        found = encode_dataset(talks, briefly, tiny, 0, cache=tmp_path)
    assert found == encode_dataset(talks, briefly, tiny, 0)
    # A damaged file only costs the time.
    for path in tmp_path.glob("*.npz"):
        path.write_bytes(path.read_bytes()[:-200])
    assert encode_dataset(talks, data, tiny, 0, cache=tmp_path) == plain
    kept.forget(talks, tmp_path)
    assert not list(tmp_path.glob("*.npz"))


def test_rows_that_are_refused_or_empty_are_counted_alike_from_kept_tokens(
    talks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picky = "{% if '3' in messages[0].content %}{{ raise_exception('no threes') }}{% endif %}" + CHATML
    model = tiny_model(tmp_path / "picky", picky)
    data = Data(held_out=0)
    first = encode_dataset(talks, data, model, 0, cache=tmp_path / "kept")
    assert 0 < first.refused.total == first.skipped
    assert (
        encode_dataset(talks, data, model, 0, cache=tmp_path / "kept") == first == encode_dataset(talks, data, model, 0)
    )


def test_of_a_dataset_with_many_tokens_only_counts_are_kept(
    talks: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Data(held_out=0)
    plain = encode_dataset(talks, data, tiny, seed=0)
    monkeypatch.setattr("studio.dataset.tokens.lengths._TOKENS_KEPT", 100)
    assert encode_dataset(talks, data, tiny, 0, cache=tmp_path) == plain
    (file,) = tmp_path.glob("*.npz")
    assert file.stat().st_size < 4 * lengths.count(talks, tiny, data, tmp_path).summary()["total"]
    assert encode_dataset(talks, data, tiny, 0, cache=tmp_path) == plain


def test_what_is_kept_is_bounded_and_what_was_used_longest_ago_goes_first(
    talks: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kept_for(words: str) -> Path:
        data = Data(held_out=0, system_prompt=words)
        lengths.count(talks, tiny, data, tmp_path)
        return kept.place_of(talks, tiny, data, tmp_path)

    first, second = kept_for("one"), kept_for("two")
    size = first.stat().st_size
    monkeypatch.setattr("studio.dataset.tokens.cache.MOST", 2 * size + size // 2)
    changed = first.stat().st_mtime_ns
    kept_for("one")  # used again, not written
    assert first.stat().st_mtime_ns == changed
    third = kept_for("three")
    assert sorted(tmp_path.glob("*.npz")) == sorted([first, third]) and not second.exists()


def test_plain_texts_are_split_and_all_of_them_is_trained() -> None:
    plain = np.array([0, int(Remark.PLAIN_TEXT), int(Remark.PLAIN_TEXT), 0], np.int32)
    counts = replace(made_of(25, 25, 7, 0), remarks=plain)
    parts = counts.split(10)
    assert parts.rows.tolist() == [1, 2, 2, 2, 3, 4]
    assert parts.totals.tolist() == [25, 10, 10, 5, 7, 0]
    assert parts.offsets.tolist() == [0, 1, 2, 3, 4, 5, 5]
    assert parts.starts.tolist() == [24, 0, 0, 0, 6] and parts.ends.tolist() == [25, 10, 10, 5, 7]
    assert parts.records().tolist() == [0, 1, 1, 1, 2, 3]
    assert parts.at(10).rows_cut == 1
    item = Tokenised(2, list(range(25)), ((0, 25),), remarks=Remark.PLAIN_TEXT)
    assert [part.input_ids for part in item.split(10)] == [list(range(10)), list(range(10, 20)), list(range(20, 25))]
    assert Tokenised(2, list(range(25)), ((3, 25),)).split(10) == [Tokenised(2, list(range(25)), ((3, 25),))]
