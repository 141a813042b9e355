"""The first row of a table: names of columns or an example; and columns that only count."""

from collections.abc import Callable
from pathlib import Path

import pytest

from studio.dataset.checking import Order, check
from studio.dataset.read.limits import Limits
from studio.dataset.read.reader import ReadOptions, Source, open_rows
from studio.dataset.read.rows import Finding, Row
from studio.dataset.read.table.header import looks_like_data
from studio.dataset.store import read_records
from studio.errors import BadInput

Write = Callable[[str, str | bytes], Path]
CAPITALS = "What is the capital of France?,Paris\nWhat is the capital of Spain?,Madrid\nWhat is that of Italy?,Rome\n"


def read(path: Path, header: bool | None = None) -> tuple[Source, list[Row | Finding]]:
    with open_rows(path, Limits(), ReadOptions(header=header)) as source:
        return source, list(source.rows)


def looks(text: str) -> bool:
    first, *later = (line.split(",") for line in text.splitlines())
    return looks_like_data(first, later)


@pytest.mark.parametrize(
    "text",
    [
        CAPITALS,
        "great film,positive\ndull film,negative\nfine film,positive\n",
        "2 + 2,4\n3 + 3,6\n4 + 4,8\n",
        "The cat sat down.,Die Katze setzte sich.\nThe dog ran off.,Der Hund lief weg.\n",
        "法国的首都是哪里？,巴黎\n西班牙的首都是哪里？,马德里\n",
        "What is this?,yes,yes\nWhat is that here?,no,yes\nAnd what is this?,yes,no\n",
        f"{'word ' * 20},x\n{'other ' * 20},y\n",
    ],
)
def test_a_first_row_like_the_others_is_data(text: str) -> None:
    assert looks(text)


@pytest.mark.parametrize(
    "text",
    [
        "question,answer\nWhat is it?,A cat\n",
        "Question,4\n2,4\n3,4\n",
        "user_says,we_reply\nhi,hello\nhi,hello\n",
        "userSays,weReply\nhi,hello\nhi,hello\n",
        ",Name tree,Oak\n0,a,b\n1,c,d\n",
        "frage,antwort\nWas ist das?,Eine Katze.\n",
        "How old are you really?,Where do you live now?\n34,Rome\n35,Oslo\n",  # a survey: its questions are the header
        "country,2019,2020\nFrance,1,2\nSpain,3,4\n",
        "Land,2019,2020\nFrance,1,2\nSpain,3,4\n",
        "0,1\n5,6\n7,8\n",
        "frage,antwort\na,b\nfrage,antwort\nc,d\n",  # two files, one after the other
        "frage,antwort\n",
        "col1,col2\n1,2\n",
        "",
    ],
)
def test_names_of_columns_are_a_header(text: str) -> None:
    assert not looks(text or "x")


def test_a_table_without_a_header_is_asked_about(write: Write, tmp_path: Path) -> None:
    path = write("a.csv", CAPITALS)
    source, rows = read(path)
    assert source.columns == ["column 1", "column 2"] and source.header is False
    assert source.note == "CSV, UTF-8, separated by commas, without a header"
    assert rows[0] == Row(1, {"column 1": "What is the capital of France?", "column 2": "Paris"}) and len(rows) == 3
    report = check(Order(path), Limits(), tmp_path)
    assert report.format is None
    assert '"What is the capital of France?", "Paris"' in report.why and "--header" in report.why
    assert report.why.endswith("column 1 → column 2: is that right?")
    assert report.mapping == {"instruction": "column 1", "output": "column 2"}


def test_a_person_says_whether_there_is_a_header(write: Write, tmp_path: Path) -> None:
    path = write("a.csv", CAPITALS)
    source, rows = read(path, header=True)
    assert source.columns == ["What is the capital of France?", "Paris"] and len(rows) == 2
    named = write("b.csv", "q,q\nx,\n")
    source, rows = read(named, header=False)
    assert source.columns == ["column 1", "column 2"]
    assert rows == [Row(1, {"column 1": "q", "column 2": "q"}), Row(2, {"column 1": "x", "column 2": ""})]
    report = check(Order(named, how=ReadOptions(header=False)), Limits(), tmp_path)
    assert report.why == "column 1 → column 2: is that right?"
    for header in ("q,q\nx,y\n", "q,\nx,y\n"):
        with pytest.raises(BadInput, match="--no-header"):
            read(write("c.csv", header))


def test_a_mapping_answers_the_question_for_every_file(write: Write, tmp_path: Path) -> None:
    held_out = write("b.csv", "Which is the longest river\tin Asia,Yangtze\n")
    mapping = {"instruction": "column 1", "output": "column 2"}
    order = Order(
        write("a.csv", CAPITALS), held_out=held_out, mapping=mapping, shards=(write("c.csv", "Poland?,Warsaw\n"),)
    )
    report = check(order, Limits(), tmp_path)
    assert (report.ok, report.held_out) == (5, 1)
    assert read_records(tmp_path / report.id)[0].messages[0]["content"] == "What is the capital of France?"


def test_fields_of_a_table_without_a_header_are_counted(write: Write) -> None:
    _, rows = read(write("a.csv", CAPITALS + "What next then?\n"))
    assert isinstance(rows[3], Finding) and rows[3].reason == "1 field where the first row has 2"
    assert rows[3].raw == "What next then?"


@pytest.mark.parametrize("name", ["", "Unnamed: 0"])
@pytest.mark.parametrize("numbers", [(0, 1, 2), (1, 2, 3), (7, 3, 12)])
def test_a_column_that_only_counts_is_passed_over(write: Write, name: str, numbers: tuple[int, ...]) -> None:
    lines = [f"{name},instruction,output", *(f"{number},q{number},a" for number in numbers)]
    source, rows = read(write("a.csv", "\n".join(lines)))
    assert source.columns == ["instruction", "output"]
    assert source.note == "CSV, UTF-8, separated by commas, without its first column, which only counts"
    assert rows == [Row(n, {"instruction": f"q{number}", "output": "a"}) for n, number in enumerate(numbers, start=1)]


def test_two_columns_that_only_count(write: Write) -> None:
    source, rows = read(write("a.csv", ",Unnamed: 0,q,a\n0,5,x,y\n1,6,z,w\n"))
    assert source.columns == ["q", "a"] and rows[1] == Row(2, {"q": "z", "a": "w"})


@pytest.mark.parametrize(("cells", "named"), [(("x", "y"), True), (("3", "3"), True), (("1", ""), True)])
def test_a_column_without_a_name_that_says_something_is_kept(write: Write, cells: tuple[str, ...], named: bool) -> None:
    source, rows = read(write("a.csv", ",q\n" + "".join(f"{cell},a\n" for cell in cells)))
    assert source.columns == ["column 1", "q"]
    assert rows[1] == Row(2, {"column 1": cells[1], "q": "a"})
    source, _ = read(write("b.csv", "Unnamed: 0,q\n" + "".join(f"{cell},a\n" for cell in cells)))
    assert source.columns == ["Unnamed: 0", "q"]


def test_a_count_that_says_something_late_is_a_finding(write: Write) -> None:
    lines = [",q,a", *(f"{number},x,{'y' * 300}" for number in range(2000)), "note,x,y"]
    _, rows = read(write("a.csv", "\n".join(lines)))
    found = rows[-1]
    assert isinstance(found, Finding) and (found.row, found.field) == (2001, "column 1") and "'note'" in found.reason
    assert all(isinstance(row, Row) for row in rows[:-1])
