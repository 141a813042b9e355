"""What an evaluation may say: rules, figures against the libraries' own, intervals against known answers, words."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF

from studio.errors import BadInput
from studio.evaluation import bootstrap, files, metrics, prompts, rules, scores
from studio.evaluation.bootstrap import as_rows, mean
from studio.evaluation.grades import mark_of
from studio.evaluation.prompts import Check, Prompt, of_text
from studio.evaluation.scores import Row, describe, evidence, score_set
from tests.conftest import REPOSITORY

TICKET = '{"product": "drill", "urgent": true, "count": 1}'


def rows_of(pairs: list[tuple[str, str, str]]) -> list[Row]:
    """Rows of (reference, base's answer, adapted's answer)."""
    return [
        Row("held-out", of_text("?", reference), {"base": base, "adapted": adapted})
        for reference, base, adapted in pairs
    ]


def figure(found: scores.SetScores, name: str) -> scores.Score:
    return next(score for score in found.scores if score.metric == name)


@pytest.mark.parametrize(
    ("check", "meets", "fails"),
    [
        (Check("exact", ("No problem",)), " No \n problem ", "no problem"),
        (Check("exact", ("caf\u00e9",)), "cafe\u0301", "cafe"),
        (Check("contains", ("CO2", "carbon dioxide")), "It is Carbon\nDioxide.", "It is oxygen."),
        (Check("regex", (r"^\W*yes\W*$",)), " yes. ", "yes, it is"),
        (Check("json", ("name", "age")), '{"age": 3, "name": "M"}', '{"name": "M"}'),
        (Check("json", ("name",)), '{"name": null}', 'Here it is: {"name": null}'),
    ],
)
def test_a_check_is_met_or_not(check: Check, meets: str, fails: str) -> None:
    assert rules.met(check, meets) and not rules.met(check, fails)


def test_a_pattern_that_takes_for_ever_counts_as_not_found() -> None:
    assert not rules.matches("a" * 40 + "b", r"^(a+)+$")


def test_json_is_compared_by_keys_and_values() -> None:
    wanted = json.loads(TICKET)
    assert rules.same_keys(TICKET, set(wanted)) and not rules.same_keys("[1]", set(wanted))
    assert rules.values_share('{"product": " drill", "urgent": 1, "count": 1, "more": 2}', wanted) == 2 / 3
    assert rules.values_share("no JSON", wanted) == 0
    deep = "[" * 100_000
    assert rules.json_object(deep) is None


def test_bleu_and_chrf_are_sacrebleus_own() -> None:
    references = ["the cat sat on the mat today", "a dog barks at the moon", "rain falls in the far hills", "no", ""]
    answers = ["the cat sat on a mat today", "the dog barks at the moon", "", "yes it is so", "x"]
    found = score_set("s", "S", "own", rows_of(list(zip(references, answers, references, strict=True))), {})
    kept = [(answer, told) for answer, told in zip(answers, references, strict=True) if told]
    whole = BLEU().corpus_score([answer for answer, _ in kept], [[told for _, told in kept]]).score
    assert figure(found, "bleu").values["base"] == pytest.approx(whole)
    chrf = np.mean([CHRF().sentence_score(answer, [told]).score for answer, told in kept])
    assert figure(found, "chrf").values["base"] == pytest.approx(chrf)
    assert figure(found, "bleu").values["adapted"] == pytest.approx(
        BLEU().corpus_score([told for _, told in kept], [[told for _, told in kept]]).score
    )


@pytest.mark.parametrize("seed", range(20))
def test_bleu_of_draws_is_that_of_the_drawn_texts(seed: int) -> None:
    random = np.random.default_rng(seed)
    words = ["a", "b", "c", "d"]
    texts = [" ".join(random.choice(words, size=random.integers(1, 9))) for _ in range(16)]
    answers, references = texts[:8], texts[8:]
    metric = metrics.ALL["bleu"]
    table = np.asarray(
        [metric.of_row(of_text("?", told), answer) for answer, told in zip(answers, references, strict=True)]
    )
    drawn = random.integers(0, 8, 8)
    mine = float(metric.figure(table[drawn].sum(axis=0, keepdims=True).astype(float))[0])
    theirs = BLEU().corpus_score([answers[n] for n in drawn], [[references[n] for n in drawn]]).score
    assert mine == pytest.approx(theirs, abs=1e-9)


def test_rouge_knows_every_script() -> None:
    found = score_set("s", "S", "own", rows_of([("кошка сидит дома", "кошка дома", "собака")] * 2), {})
    assert figure(found, "rouge_l").values == pytest.approx({"base": 80.0, "adapted": 0.0})


def test_the_interval_of_a_mean_is_that_of_theory_and_the_same_each_time() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, 400)
    found = bootstrap.interval(as_rows(values), mean)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert (found.value, found.low, found.high) == pytest.approx(
        (values.mean(), values.mean() - half, values.mean() + half), abs=0.02
    )
    assert bootstrap.interval(as_rows(values), mean) == found


def test_pairing_finds_a_small_change_in_noisy_rows() -> None:
    random = np.random.default_rng(2)
    before = random.normal(0, 10, 200)
    after = before + random.normal(0.5, 1.0, 200)
    found = bootstrap.change(as_rows(before), as_rows(after), mean)
    assert 0 < found.low < 0.5 < found.high < 1.0


def test_intervals_cover_the_truth_19_times_in_20(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "DRAWS", 1000)
    random, hits = np.random.default_rng(3), 0
    for _ in range(300):
        found = bootstrap.interval(as_rows(random.random(60) < 0.4), mean)
        hits += found.low <= 0.4 <= found.high
    assert 0.90 < hits / 300 < 0.98


@pytest.mark.slow
def test_ten_thousand_draws_of_many_rows_fit_into_memory() -> None:
    rows = np.ones((5000, 2))
    assert bootstrap.drawn(rows, mean).shape == (10_000,)


def test_the_words_follow_the_evidence() -> None:
    clear = score_set("s", "S", "held-out", rows_of([(TICKET, "no", TICKET)] * 20), {})
    form = figure(clear, "json_form")
    assert (describe(form, "base"), describe(form, "adapted")) == ("0 of 20", "20 of 20")
    assert form.differences["adapted"].word == "better"
    assert clear.sentences["adapted"] == "JSON form 20 of 20, before 0 of 20: better."
    assert evidence(form, "adapted") == "+100.0 points, 95% interval +100.0 to +100.0, 20 rows"
    few = score_set("s", "S", "held-out", rows_of([(TICKET, "no", TICKET)] * 5), {})
    assert figure(few, "json_form").differences["adapted"].word == "cannot tell"
    assert "only 5 of 5 differ" in evidence(figure(few, "json_form"), "adapted")
    mixed = [("yes", "yes", "no")] * 10 + [("yes", "no", "yes")] * 10
    assert figure(score_set("s", "S", "own", rows_of(mixed), {}), "exact").differences["adapted"].word == "cannot tell"


def test_less_loss_is_better() -> None:
    losses = {"base": [(30.0, 10)] * 12, "adapted": [(10.0, 10)] * 6 + [(12.0, 10)] * 6}
    found = score_set("s", "S", "held-out", [], losses)
    assert figure(found, "loss").values == pytest.approx({"base": 3.0, "adapted": 1.1})
    assert figure(found, "perplexity").values["adapted"] == pytest.approx(np.exp(1.1))
    told = figure(found, "loss").differences["adapted"]
    assert told.word == "better" and told.low <= told.value <= told.high < 0
    assert found.sentences["adapted"] == "Perplexity 3.004, before 20.1: better."


def test_a_broken_loss_is_left_out() -> None:
    losses = {"base": [(30.0, 10)], "adapted": [(float("nan"), 10)]}
    assert score_set("s", "S", "held-out", [], losses).scores == []


def test_what_was_forgotten_is_said() -> None:
    check = Check("contains", ("yes",))
    rows = [Row("general", Prompt(({"role": "user", "content": "?"},), check=check), {"base": "yes" if n < 44 else "no",
            "adapted": "yes" if n < 41 else "no"}) for n in range(60)]  # fmt: skip
    found = score_set("general", "General prompts", "general", rows, {})
    assert found.sentences["adapted"] == "It answers 41 of 60 as expected, before 44: cannot tell."


def test_a_set_without_anything_to_compare_says_so() -> None:
    rows = [Row("own", of_text("?"), {"base": "a", "adapted": "b"})]
    found = score_set("own", "Own", "own", rows, {})
    assert found.scores == [] and "read the answers" in found.sentences["adapted"]


def test_scores_and_rows_come_back_from_their_files(tmp_path: Path) -> None:
    odd = Row("own", Prompt(({"role": "user", "content": "a\u2028b\x85"},), "c\u2028", Check("json", ("k",)), "odd", 7),
              {"base": "x\u2028\ny", "adapted": ""}, {"base": "end", "adapted": "length"})  # fmt: skip
    found = score_set("own", "Own", "own", [odd], {"base": [(1.0, 2)], "adapted": [(2.0, 2)]})
    files.write_result(tmp_path, [odd], [found])
    back = files.read_result(tmp_path)
    assert back is not None and back.rows == [odd] and back.sets[0].scores[0].values["base"] == 0.5
    (tmp_path / "result" / "MANIFEST.json").unlink()
    assert files.read_result(tmp_path) is None


def test_typed_prompts_say_what_is_expected() -> None:
    found = prompts.typed(
        "Capital of Peru? => Lima\n\nPick => /^(a|b)$/\nWho? => json: name, kind\nSay hi\n2+2 => = 4\nX => a | b"
    )
    assert [prompt.check for prompt in found] == [
        Check("contains", ("Lima",)), Check("regex", ("^(a|b)$",)), Check("json", ("name", "kind")), None,
        Check("exact", ("4",)), Check("contains", ("a", "b")),
    ]  # fmt: skip
    assert found[0].question == "Capital of Peru?"
    with pytest.raises(BadInput, match="at least one"):
        prompts.typed(" \n")
    with pytest.raises(BadInput, match="Line 2: '\\(' is not a regular expression"):
        prompts.typed("a\nb => /(/")


def test_the_general_set_is_whole_and_can_be_failed() -> None:
    path = REPOSITORY / "data" / "prompts" / "general.jsonl"
    found = prompts.load(path)
    assert len(found) == 60 and len({prompt.question for prompt in found}) == 60
    assert {prompt.about for prompt in found} == {"facts", "arithmetic", "manners", "safety", "format"}
    readme = (path.parent / "README.md").read_text()
    for about, words in (("facts", "facts"), ("arithmetic", "sums"), ("manners", "of manners"), ("safety", "of safety"),
                         ("format", "of format")):  # fmt: skip
        assert re.search(rf"\b{sum(p.about == about for p in found)} {words}\b", readme), about
    for prompt in found:
        assert prompt.check is not None
        assert not rules.met(prompt.check, ""), prompt.question
        # Neither nonsense nor the question said back may pass, but for questions that name the answer.
        assert not rules.met(prompt.check, "lorem ipsum dolor"), prompt.question
    tickets = [prompt.question for prompt in found if rules.met(prompt.check, TICKET)]  # type: ignore[arg-type]
    assert tickets == []


def test_a_mark_tells_an_answer_at_a_glance() -> None:
    prompt = of_text("?", TICKET)
    assert mark_of(prompt, TICKET) == ("good", "right form, 3 of 3 values")
    assert mark_of(prompt, TICKET.replace("drill", "saw")) == ("warn", "right form, 2 of 3 values")
    assert mark_of(prompt, "a drill") == ("bad", "wrong form")
    assert mark_of(of_text("?", "a b"), "a  b\n") == ("good", "the same")
    assert mark_of(of_text("?"), "a") is None
