"""The Data tab: any file gets a plain answer, and one sees what the model sees."""

import csv
import io
import json
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from playwright.sync_api import Page, expect

from studio.launch.forkserver import possible
from studio.services.core.keeper import Keeper
from studio.services.data import datasets, examples
from studio.settings import Settings
from studio.ui.web.server import make_app
from tests.conftest import little_rows, write_jsonl
from tests.e2e.conftest import Served
from tests.serving import free_port, serving

pytestmark = pytest.mark.browser
Start = Callable[[Path], Served]
CHECKS = 120_000
WORK = "studio.dataset.worker"


def upload(page: Page, path: Path, box: str = "dataset-file") -> None:
    page.locator(f"#{box} input[type=file]").set_input_files(path)


def readers(served: Served) -> int:
    """How many processes the studio has for reading files."""
    children = served.process.children(recursive=True)
    return sum(WORK in child.cmdline() for child in children if child.status() != psutil.STATUS_ZOMBIE)


def become(served: Served, count: int) -> None:
    until = time.monotonic() + 30
    while readers(served) != count:
        assert time.monotonic() < until, f"{readers(served)} processes read files, not {count}"
        time.sleep(0.1)


def test_who_leaves_the_page_ends_what_is_read_for_them(
    page: Page, little_home: Path, start: Start, tmp_path: Path
) -> None:
    rows: list[dict[str, object]] = [
        {"instruction": f"{n} {'word ' * (n % 40)}", "output": str(n)} for n in range(10**6)
    ]
    path, served = write_jsonl(tmp_path / "large.jsonl", rows), start(little_home)
    waits = int(possible())  # the fork server itself
    page.goto(served.url)
    upload(page, path)
    expect(page.locator("#check-cancel")).to_be_visible()
    become(served, waits + 1)
    page.close()
    become(served, waits)


def set_length(page: Page, tokens: int) -> None:
    box = page.locator("#see-length input[type=number]")
    box.fill(str(tokens))
    box.press("Enter")


def add(page: Page, name: str) -> None:
    page.locator("#add-dataset").click()
    expect(page.locator("#data-notice")).to_contain_text(f"{name} was added", timeout=CHECKS)
    expect(page.locator(".title h2")).to_have_text(name)


def download(page: Page, form: str) -> tuple[str, str]:
    """Name and text of the rejects as one of their links gives them."""
    with page.expect_download() as got:
        page.locator(".rejects").get_by_role("link", name=f".{form}").click()
    return got.value.suggested_filename, Path(got.value.path()).read_text(encoding="utf-8")


def school(count: int = 300) -> list[dict[str, str]]:
    """Questions and answers as GSM8K's: no two alike, some longer than others."""
    places = ("market", "harbour", "library", "orchard", "station", "bakery", "museum", "stable", "garden", "mill")
    things = ("pears", "lamps", "books", "coats", "bells", "chairs", "kites", "jars", "maps")
    rows = []
    for n in range(count):
        place, thing = places[n % 10], things[n % 9]
        steps = [f"In hour {h} she sold {n * 7 + h} {thing} at the {place}." for h in range(1, n % 12 + 1)]
        question = f"Vendor number {n * 37} sells {thing} at the {place} for {n + 2} hours. How many does she sell?"
        rows.append({"question": question, "answer": "\n".join([*steps, f"#### {n * 7 + 1}"])})
    return rows


def test_gsm8k_is_mapped_looked_at_added_and_cut(page: Page, little_home: Path, start: Start, tmp_path: Path) -> None:
    path = Path(os.environ.get("STUDIO_GSM8K") or write_jsonl(tmp_path / "gsm8k.jsonl", school()))
    rows = path.read_text(encoding="utf-8").count("\n")
    first = json.loads(path.open(encoding="utf-8").readline())
    page.goto(start(little_home).url)
    upload(page, path)

    # It needs a mapping; a wrong one is said, the right one is previewed.
    expect(page.locator("#mapping")).to_contain_text("question → answer: is that right?", timeout=CHECKS)
    expect(page.locator("#read-mapped")).to_have_text("Yes, use it")
    expect(page.locator("#map-instruction input")).to_have_value("question")
    output = page.locator("#map-output input")
    output.fill("{no such column}")
    output.press("Enter")
    expect(page.locator("#map-preview")).to_contain_text("There is no column 'no such column'")
    output.fill("Answer: {answer}")
    output.press("Enter")
    expect(page.locator("#map-preview")).to_contain_text("Answer: " + first["answer"].split("\n")[0][:60])
    expect(page.locator("#read-mapped")).to_have_text("Use this mapping")
    expect(page.locator("#add-dataset")).to_be_hidden()
    page.locator("#read-mapped").click()

    # The same four steps show the file before it is added.
    expect(page.locator("#add-dataset")).to_be_visible(timeout=CHECKS)
    expect(page.locator("#what-it-is")).to_contain_text("output ← Answer: {answer}")
    expect(page.locator(".title")).to_contain_text(f"{rows:,}")
    expect(page.locator(".histogram")).to_be_visible(timeout=CHECKS)
    page.locator("#dataset-name input, #dataset-name textarea").fill("school")
    add(page, "school")

    # The slider moves the line, the sentence and the verdict.
    lengths = page.locator("#lengths")
    expect(page.locator(".histogram")).to_be_visible(timeout=CHECKS)
    longest = int(lengths.locator(".facts dd").nth(2).inner_text().replace(",", ""))
    enough = -(-longest // 8) * 8
    set_length(page, enough)
    expect(lengths).to_contain_text(f"At max_length {enough:,} you lose nothing. The longest example has {longest:,}")
    expect(lengths.locator(".histogram .beyond")).to_have_count(0)
    set_length(page, 64)
    expect(lengths).to_contain_text(re.compile(r"At max_length 64 you lose\s+[\d,]+ tokens of [\d,]+ examples\s+and"))
    expect(lengths.locator(".histogram .beyond").first).to_be_visible()
    expect(page.locator("#verdict")).to_contain_text("at max_length 64 you lose")

    # A row that is cut, opened from the list of findings, shows where.
    button = page.locator("#findings .link").first
    row = button.inner_text().replace(",", "")
    button.click()
    expect(page.locator("#see-row input")).to_have_value(row)
    expect(page.locator(".tokens")).to_have_attribute("aria-label", f"Tokens of example {row}")
    expect(page.locator(".scissors")).to_contain_text("cut here: 64 tokens")
    assert page.locator(".tokens .tok-cut").count() > 0

    # Another way to train and another template change what is seen.
    page.locator("#see-train-on").get_by_label("everything").check()
    expect(page.locator(".tokens .tok").first).to_have_class(re.compile("tok-trained"))
    total = lengths.locator(".facts dd").nth(3)
    before = total.inner_text()
    page.locator("#see-template").get_by_label("custom").check()
    expect(total).not_to_have_text(before, timeout=CHECKS)
    before = total.inner_text()
    page.locator("#see-custom textarea").fill("Frage: {instruction}\nAntwort: {output}")
    page.locator("#see-custom textarea").blur()
    expect(page.locator(".tokens")).to_contain_text("Frage: ")

    # A reload comes back to the same dataset.
    expect(total).not_to_have_text(before, timeout=CHECKS)
    page.reload()
    expect(page.locator(".title h2")).to_have_text("school")
    expect(page.locator(".histogram")).to_be_visible(timeout=CHECKS)


def test_a_filter_chosen_while_tokens_are_counted_stays(
    page: Page, little_home: Path, start: Start, tmp_path: Path
) -> None:
    rows = [{"instruction": f"{number} " + "why " * 40_000, "output": "so"} for number in range(40)]
    path = tmp_path / "long.jsonl"
    path.write_text("\n".join(["{", "[", *map(json.dumps, rows), '{"instruction": "?", "output": ""}']) + "\n")
    page.goto(start(little_home).url)
    upload(page, path)
    filters = page.locator(".filters")
    filters.get_by_role("button", name=re.compile("unreadable 2")).click(timeout=CHECKS)
    expect(page.locator("#lengths")).to_contain_text("you lose", timeout=CHECKS)
    expect(filters).to_contain_text("no trained token 40")
    expect(page.locator("#findings tbody tr")).to_have_count(2)
    expect(filters.get_by_role("button", name=re.compile("unreadable"))).to_have_attribute("aria-pressed", "true")


def test_a_filter_chosen_while_the_findings_are_drawn_stays(
    page: Page, little_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was begun before a choice and ends after it does not undo it."""
    begun, chosen, find = threading.Event(), threading.Event(), examples.findings

    def slowly(*of: Any, **how: Any) -> examples.FoundPage:
        if how.get("lengths") and not begun.is_set():
            begun.set()
            chosen.wait(60)
        return find(*of, **how)

    monkeypatch.setattr(examples, "findings", slowly)
    path = tmp_path / "spoilt.jsonl"
    path.write_text("\n".join(["{", "[", '{"instruction": "?", "output": ""}', *map(json.dumps, little_rows())]) + "\n")
    settings = Settings(home=little_home, offline=True, port=free_port())
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(settings.uploads))
    with Keeper(settings).start() as studio, serving(studio, make_app(studio)):
        page.goto(f"http://127.0.0.1:{settings.port}")
        upload(page, path)
        expect(page.locator("#lengths")).to_contain_text("you lose", timeout=CHECKS)
        assert begun.wait(60)
        page.locator(".filters").get_by_role("button", name=re.compile("unreadable 2")).click()
        page.wait_for_timeout(1500)  # an answer to the choice, where one is given by now, is there
        chosen.set()
        expect(page.locator("#findings tbody tr")).to_have_count(2)
        page.wait_for_timeout(1500)  # and nothing comes after it
        expect(page.locator("#findings tbody tr")).to_have_count(2)
        page.goto("about:blank")


def test_a_spoilt_copy_is_counted_filtered_downloaded_and_mended(
    page: Page, little_home: Path, start: Start, tmp_path: Path
) -> None:
    lines = [json.dumps({"instruction": row["question"], "output": row["answer"]}) for row in school(60)]
    lines[3] = lines[3][:40]
    lines[10] = json.dumps({"instruction": "Why?", "output": "  "})
    lines[20] = lines[19]
    lines[30] = json.dumps({"instruction": '=HYPERLINK("http://evil.example")', "output": ""})
    lines[40] = '=HYPERLINK("http://evil.example")'
    path = tmp_path / "spoilt.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    page.goto(start(little_home).url)
    upload(page, path)
    filters = page.locator(".filters")
    expect(filters).to_contain_text(re.compile(r"unreadable 2.*empty 2.*duplicate 1", re.DOTALL), timeout=CHECKS)
    expect(page.locator("#verdict")).to_contain_text("56 of 60 rows can be used (2 unreadable, 2 empty)")

    # A filter shows one kind; what a row held can be opened and is text.
    filters.get_by_role("button", name=re.compile("unreadable")).click()
    expect(page.locator("#findings tbody tr")).to_have_count(2)
    expect(page.locator("#findings tbody tr").first.locator("td").first).to_have_text("4")
    filters.get_by_role("button", name=re.compile("duplicate")).click()
    expect(page.locator("#findings tbody tr")).to_have_count(1)
    expect(page.locator("#findings")).to_contain_text("Is the same as row 20.")
    expect(page.locator("#leave-out")).to_be_hidden()

    # The rejects, before it is added: all four, and no cell that a spreadsheet would run.
    name, text = download(page, "jsonl")
    rejects = [json.loads(line) for line in text.splitlines()]
    assert name == "spoilt-rejects.jsonl"
    assert [(item["row"], item["kind"]) for item in rejects] == [
        (4, "unreadable"), (11, "empty"), (31, "empty"), (41, "unreadable")
    ]  # fmt: skip
    assert rejects[3]["content"] == lines[40]
    name, text = download(page, "csv")
    cells = list(csv.reader(io.StringIO(text)))
    assert name == "spoilt-rejects.csv"
    assert [row[0] for row in cells] == ["row", "4", "11", "31", "41"]
    assert not [cell for row in cells for cell in row if cell.startswith(("=", "+", "-", "@"))]
    assert cells[4][-1] == "'" + lines[40]

    # Added, the duplicate is left out in a new version, and both are there.
    add(page, "spoilt")
    filters.get_by_role("button", name=re.compile("duplicate")).click()
    page.get_by_role("button", name="Leave this one out").click()
    expect(page.locator("#findings-notice")).to_contain_text("spoilt-2 is a new version", timeout=CHECKS)
    expect(page.locator(".title h2")).to_have_text("spoilt-2")
    expect(page.locator("#what-it-is")).to_contain_text("A version of spoilt: without 1 example (duplicate)")
    expect(filters.get_by_role("button", name=re.compile("duplicate"))).to_have_count(0)
    expect(page.locator("#dataset-list .item")).to_have_count(3)

    # An example is mended, in another new version.
    page.locator("#edit-example").click()
    area = page.locator("#editor textarea[name=output]")
    expect(area).to_have_value("#### 1")
    area.fill("#### <b>one</b>")
    page.locator("#editor").get_by_role("button", name="Save as a new version").click()
    expect(page.locator("#editor-notice")).to_contain_text(
        "spoilt-3 is a new version: example 1 corrected", timeout=CHECKS
    )
    expect(page.locator(".tokens")).to_contain_text("<b>one</b>")


def test_a_file_in_another_encoding_is_read_as_it_was_written(
    page: Page, little_home: Path, start: Start, tmp_path: Path
) -> None:
    path = tmp_path / "kunden.csv"
    text = "instruction;output\nWo ist das Café?;Gegenüber, für 5 €\nWie heißt du?;Jürgen Groß – “der Große”\n"
    path.write_bytes(text.encode("cp1252"))
    page.goto(start(little_home).url)
    upload(page, path)
    expect(page.locator("#what-it-is")).to_contain_text("kunden.csv is not UTF-8 text", timeout=CHECKS)
    expect(page.locator("#encodings")).to_contain_text("Wo ist das Café?")
    page.locator("#encodings").get_by_label(re.compile("cp1252")).check()
    page.locator("#read-encoding").click()
    expect(page.locator("#add-dataset")).to_be_visible(timeout=CHECKS)
    expect(page.locator("#what-it-is")).to_contain_text("semicolon")
    add(page, "kunden")
    with Keeper(Settings(home=little_home, offline=True)) as reader:
        found = examples.rows(reader, datasets.get(reader, "kunden").id)
    assert [row["answer"] for row in found] == ["Gegenüber, für 5 €", "Jürgen Groß – “der Große”"]
    expect(page.locator("#all-examples")).to_be_visible()


def test_nested_rows_are_mapped_by_paths(page: Page, little_home: Path, start: Start, tmp_path: Path) -> None:
    rows = [
        {"id": n, "instruction": f"Name {n} fruits.", "instances": [{"input": f"Basket {n}", "output": f"{n} pears"}]}
        for n in range(1, 9)
    ]
    page.goto(start(little_home).url)
    upload(page, write_jsonl(tmp_path / "seed_tasks.jsonl", rows))  # type: ignore[arg-type]
    expect(page.locator("#map-output input")).to_have_value("instances.0.output", timeout=CHECKS)
    expect(page.locator("#map-input input")).to_have_value("instances.0.input")
    expect(page.locator("#map-preview")).to_contain_text("1 pears")
    page.locator("#read-mapped").click()
    expect(page.locator("#add-dataset")).to_be_visible(timeout=CHECKS)

    # It waits on the shelf while another dataset is looked at, and can be discarded.
    page.locator("#dataset-list .item", has_text="little").click()
    expect(page.locator(".title h2")).to_have_text("little")
    page.locator("#dataset-list .item-pending").click()
    expect(page.locator(".title h2")).to_have_text("seed_tasks.jsonl")
    page.locator("#discard-check").click()
    expect(page.locator("#data-notice")).to_contain_text("seed_tasks.jsonl was discarded")
    expect(page.locator("#dataset-list .item")).to_have_count(1)
    assert list((little_home / "staging").iterdir()) == []


def test_a_second_file_is_held_out(page: Page, little_home: Path, start: Start, tmp_path: Path) -> None:
    page.goto(start(little_home).url)
    upload(page, write_jsonl(tmp_path / "facts.jsonl", school(40)))
    expect(page.locator("#read-mapped")).to_be_visible(timeout=CHECKS)
    page.get_by_role("button", name="Read with other settings").click()
    upload(page, write_jsonl(tmp_path / "facts-later.jsonl", school(48)[39:]), "held-out-file")
    expect(page.locator("#held-out-file")).to_contain_text("facts-later")
    page.locator("#read-again").click()
    expect(page.locator("#what-it-is")).to_contain_text("held out: facts-later.jsonl", timeout=CHECKS)
    expect(page.locator(".filters")).to_contain_text(re.compile(r"held out and trained on\s+1"))
    expect(page.locator(".title")).to_contain_text(re.compile(r"9\s*held out"))


def upload_much(page: Page, folder: Path) -> None:
    """Begin a check that takes a while, and wait until it is under way."""
    rows = [{"prompt": row["question"], "completion": row["answer"]} for row in school(120_000)]
    upload(page, write_jsonl(folder / "big.jsonl", rows))
    expect(page.locator("#check-progress")).to_contain_text("%", timeout=CHECKS)
    expect(page.locator("#check-cancel")).to_be_visible()


def left_empty(staging: Path) -> None:
    deadline = time.monotonic() + 60
    while list(staging.iterdir()):
        assert time.monotonic() < deadline, f"left behind: {list(staging.rglob('*'))}"
        time.sleep(0.1)


def test_cancel_leaves_nothing_behind(page: Page, little_home: Path, start: Start, tmp_path: Path) -> None:
    page.goto(start(little_home).url)
    expect(page.locator("#check-cancel")).to_be_hidden()
    upload_much(page, tmp_path)
    page.locator("#check-cancel").click()
    expect(page.locator("#data-notice")).to_contain_text("Cancelled", timeout=CHECKS)
    # That was the last word: no progress comes behind it.
    seen = page.evaluate("""new Promise((tell) => {
      const place = document.querySelector("#check-progress"), seen = [place.textContent.trim()];
      new MutationObserver(() => seen.push(place.textContent.trim())).observe(place, {childList: true, subtree: true});
      setTimeout(() => tell(seen.filter(Boolean)), 2000);
    })""")
    assert seen == []
    expect(page.locator("#check-cancel")).to_be_hidden()
    expect(page.locator("#data-notice")).to_contain_text("Cancelled")
    left_empty(little_home / "staging")
    expect(page.locator("#dataset-list .item")).to_have_count(1)

    # The drop zone is there for the next file.
    upload(page, write_jsonl(tmp_path / "small.jsonl", [{"prompt": "Who?", "completion": "Me."}] * 2))
    expect(page.locator("#add-dataset")).to_be_visible(timeout=CHECKS)
    add(page, "small")


def test_a_page_that_is_left_ends_its_check(page: Page, little_home: Path, start: Start, tmp_path: Path) -> None:
    page.goto(start(little_home).url)
    upload_much(page, tmp_path)
    page.goto("about:blank")
    left_empty(little_home / "staging")


def test_what_was_seen_is_what_is_trained_on(page: Page, little_home: Path, start: Start) -> None:
    """The template, what is trained and the length go with the dataset into the form, and survive a reload there."""
    page.goto(start(little_home).url)
    expect(page.locator(".tokens")).to_be_visible(timeout=CHECKS)
    page.locator("#see-template").get_by_label("alpaca").check()
    page.locator("#see-train-on").get_by_label("everything").check()
    set_length(page, 64)
    page.locator("#train-on").click()
    expect(page.get_by_role("tab", name="Train", exact=True)).to_have_attribute("aria-selected", "true")
    for told in ("template alpaca", "train_on everything", "max_length 64"):
        expect(page.locator("#changed-fields")).to_contain_text(told)
    page.goto(page.url)
    expect(page.locator("#changed-fields")).to_contain_text("template alpaca")
    expect(page.locator("#field-dataset input")).to_have_value("little")


def talk(*contents: str, **more: object) -> dict[str, object]:
    """A row whose messages alternate between user and assistant."""
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[at % 2], "content": text} for at, text in enumerate(contents)], **more}


def test_a_column_that_is_not_read_is_ignored_by_a_click(
    page: Page, little_home: Path, start: Start, tmp_path: Path
) -> None:
    rows = [talk(f"How far is {n}?", f"{n} km", score=n) for n in range(1, 9)]
    page.goto(start(little_home).url)
    upload(page, write_jsonl(tmp_path / "far.jsonl", rows))
    account = page.locator("#what-it-is .account")
    expect(account).to_contain_text("1 not read, the others used", timeout=CHECKS)
    expect(page.locator("#verdict")).to_contain_text("the column score is not read (8 rows)")
    page.get_by_role("button", name="Ignore score").click()
    expect(account).to_contain_text("ignored by you", timeout=CHECKS)
    expect(page.locator("#verdict")).to_contain_text("Ready to train")
    page.get_by_role("button", name="Read score again").click()
    expect(account).to_contain_text("1 not read", timeout=CHECKS)
    page.get_by_role("button", name="Ignore score").click()
    expect(account).to_contain_text("ignored by you", timeout=CHECKS)

    # Added, the account is the same, without buttons.
    add(page, "far")
    expect(account).to_contain_text("ignored by you")
    expect(account.get_by_role("button")).to_have_count(0)
    page.locator("#dataset-list .item", has_text="little").click()
    expect(account.locator("summary")).to_have_text("All 3 columns are used.")


def test_preference_data_is_named_and_confirmed(page: Page, little_home: Path, start: Start, tmp_path: Path) -> None:
    rows = [{"prompt": f"Greet guest {n}.", "chosen": f"Hello, guest {n}!", "rejected": "What?"} for n in range(8)]
    page.goto(start(little_home).url)
    upload(page, write_jsonl(tmp_path / "greet.jsonl", rows))  # type: ignore[arg-type]
    expect(page.locator("#what-it-is")).to_contain_text("This is preference data", timeout=CHECKS)
    expect(page.locator("#mapping")).to_be_hidden()
    page.get_by_role("button", name="Train on the chosen answers").click()
    expect(page.locator("#add-dataset")).to_be_visible(timeout=CHECKS)
    expect(page.locator("#what-it-is")).to_contain_text("All 3 columns are used.")
    expect(page.locator(".tokens")).to_contain_text("Hello, guest 0!", timeout=CHECKS)
    expect(page.locator(".tokens")).not_to_contain_text("What?")


def test_turns_out_of_order_are_joined_by_a_click(page: Page, little_home: Path, start: Start, tmp_path: Path) -> None:
    rows = [talk(f"How far is {n}?", f"{n} km") for n in range(1, 9)]
    for row in rows[:2]:
        row["messages"].insert(0, {"role": "user", "content": "Hello."})  # type: ignore[attr-defined]
    page.goto(start(little_home).url)
    upload(page, write_jsonl(tmp_path / "far.jsonl", rows))
    expect(page.locator("#verdict")).to_contain_text("6 of 8 rows can be used (2 broken turn order)", timeout=CHECKS)
    page.get_by_role("button", name="Join consecutive turns").click()
    expect(page.locator("#verdict")).to_contain_text("all 8 rows can be used", timeout=CHECKS)
    expect(page.locator("#mending")).to_contain_text("2 were mended")
    expect(page.locator("#findings")).to_contain_text("1 message joined to the one before")
    joined = page.get_by_role("button", name="Join consecutive turns")
    expect(joined).to_have_attribute("aria-pressed", "true")

    # Where no row can be used as it is, the same is offered at once.
    greeted = [{"messages": [{"role": "assistant", "content": "Hi!"}, *talk(f"Far {n}?", "No.")["messages"]]}
               for n in range(4)]  # type: ignore[misc]  # fmt: skip
    upload(page, write_jsonl(tmp_path / "greeted.jsonl", greeted))  # type: ignore[arg-type]
    expect(page.locator("#what-it-is")).to_contain_text("greeted.jsonl has no usable row", timeout=CHECKS)
    expect(page.locator("#pending")).to_be_hidden()
    page.get_by_role("button", name="Leave out turns without a question or an answer").click()
    expect(page.locator("#verdict")).to_contain_text("all 4 rows can be used", timeout=CHECKS)
    expect(page.locator("#mending")).to_contain_text("4 were mended")


def test_the_system_prompt_is_folded_by_a_click(page: Page, little_home: Path, start: Start, tmp_path: Path) -> None:
    """What the template refuses is said with its reason; the fix is shown on the tokens and taken over by Train."""
    rows = [talk(f"How far is {n}?", f"{n} km", system="Be short.") for n in range(1, 9)]
    del rows[0]["system"]
    page.goto(start(little_home).url)
    upload(page, write_jsonl(tmp_path / "far.jsonl", rows))
    expect(page.locator(".histogram")).to_be_visible(timeout=CHECKS)
    page.locator("#see-template").get_by_label("custom").check()
    own = page.locator("#see-custom textarea")
    own.fill(
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('No system role here') }}{% endif %}"
        "<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    own.blur()
    lengths = page.locator("#lengths")
    expect(lengths).to_contain_text("The template refuses 7 examples", timeout=CHECKS)
    expect(lengths).to_contain_text("No system role here")
    lengths.get_by_role("button", name="Turn on: System prompt in the first message").click()
    expect(page.locator("#see-fold-system input")).to_be_checked()
    expect(lengths).not_to_contain_text("refuses", timeout=CHECKS)
    page.locator("#see-row input").fill("2")
    page.locator("#see-row input").press("Enter")
    expect(page.locator(".tokens")).to_contain_text("<user>Be short.")
    add(page, "far")
    page.locator("#train-on").click()
    expect(page.locator("#changed-fields")).to_contain_text("fold_system")
