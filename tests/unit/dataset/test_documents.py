"""Plain text files and folders of them: a document each, for continued pretraining."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from studio.dataset.checking import Order, check
from studio.dataset.read.limits import Limits
from studio.dataset.read.reader import ReadOptions, Source, Undecodable, open_rows
from studio.dataset.read.rows import Finding, Row
from studio.dataset.store import iter_findings, read_records
from studio.errors import BadInput

Write = Callable[[str, str | bytes], Path]
PLAIN = Limits()
SMALL = Limits(max_field_mb=1)


def read(path: Path, limits: Limits = PLAIN, encoding: str = "") -> tuple[Source, list[Row | Finding]]:
    with open_rows(path, limits, ReadOptions(encoding)) as source:
        rows = list(source.rows)
        return source, rows


def texts(path: Path, limits: Limits = PLAIN) -> list[str]:
    _, rows = read(path, limits)
    assert all(isinstance(row, Row) for row in rows), rows
    return [row.values["text"] for row in rows if isinstance(row, Row)]


def refused(path: Path, limits: Limits = PLAIN) -> str:
    with pytest.raises(BadInput) as error:
        read(path, limits)
    return str(error.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "library"
    (made / "deeper").mkdir(parents=True)
    (made / ".git").mkdir()
    for name, text in (("b.txt", "Second."), ("a.md", "# First\n"), ("deeper/c.TXT", "Third."), (".git/d.txt", "No.")):
        (made / name).write_text(text, encoding="utf-8")
    return made


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.TXT", "a.markdown", "a.txt.gz"])
def test_a_text_file_is_one_document(write: Write, name: str) -> None:
    text = "A line.\n\nAnother, with naïve signs.\n"
    content = text.encode()
    source, rows = read(write(name, gzip.compress(content) if name.endswith(".gz") else content))
    assert rows == [Row(1, {"text": text, "file": name})]
    packed = "gzipped " if name.endswith(".gz") else ""
    assert (source.kind, source.note) == ("text", f"{packed}plain text, UTF-8, 1 document")
    assert source.columns == ["text", "file"]


def test_line_ends_do_not_depend_on_the_system(write: Write) -> None:
    assert texts(write("a.txt", "a\r\n\r\nb\rc")) == ["a\n\nb\nc"]
    assert texts(write("a.txt", "\ufeffa\r\nb".encode("utf-16"))) == ["a\nb"]


def test_a_large_file_is_split_at_its_blank_lines(write: Write) -> None:
    paragraphs = [f"{number} {'word ' * 40_000}\n" for number in range(12)]
    text = "\n".join(paragraphs)
    found = texts(write("a.txt", text), SMALL)
    assert "".join(found) == text and len(found) == 3
    assert all(len(document) <= 2**20 and document[0].isdecimal() for document in found)
    assert [document.endswith("\n\n") for document in found] == [True, True, False]


def test_a_large_file_without_blank_lines_is_split_at_its_lines(write: Write) -> None:
    text = "".join(f"{number} {'wörd ' * 40_000}\n" for number in range(12))
    found = texts(write("a.txt", text), SMALL)
    assert "".join(found) == text and all(len(document.encode()) <= 2**20 for document in found)


def test_a_line_that_is_too_long_costs_its_document_only(write: Write) -> None:
    path = write("a.txt", "one\n\n" + "x" * (2**20 + 5) + "\n\nthree\n")
    _, rows = read(path, SMALL)
    assert [isinstance(row, Row) for row in rows] == [True, False, True]
    assert isinstance(rows[1], Finding) and (rows[1].row, rows[1].field) == (2, "text")
    assert "STUDIO_MAX_FIELD_MB" in rows[1].reason
    _, rows = read(write("b.txt", "one\n" + "x" * 3 * 2**20 + "\nthree\n"), Limits(max_field_mb=1, max_row_mb=2))
    assert isinstance(rows[1], Finding) and "STUDIO_MAX_ROW_MB" in rows[1].reason


@pytest.mark.parametrize(
    "text", ["[Verse]\nLa la.\n", "<p>Markdown</p>\n", "{x} and {y}\n", "a,b\n1,2\n", "- a\n- b\n"]
)
def test_text_that_looks_like_something_else_stays_text(write: Write, text: str) -> None:
    assert texts(write("a.md", text)) == [text]


def test_rows_in_a_text_file_are_rows(write: Write) -> None:
    for content in ('{"q": "1"}\n{"q": "2"}\n', '[{"q": "1"}, {"q": "2"}]', '{\n "q": "1"\n}\n{\n "q": "2"\n}'):
        source, rows = read(write("a.txt", content))
        assert source.kind in ("json", "jsonl") and [row.values for row in rows if isinstance(row, Row)] == [
            {"q": "1"},
            {"q": "2"},
        ]


def test_the_encoding_is_asked_for(write: Write, folder: Path) -> None:
    with pytest.raises(Undecodable, match="--encoding cp1252"):
        read(write("a.txt", "naïve café".encode("cp1252")))
    assert read(write("a.txt", "naïve café".encode("cp1252")), encoding="cp1252")[1] == [
        Row(1, {"text": "naïve café", "file": "a.txt"})
    ]
    (folder / "b.txt").write_bytes("naïve café".encode("cp1252"))
    with pytest.raises(Undecodable, match=r"b\.txt is not UTF-8 text"):
        read(folder)


def test_a_folder_of_texts(folder: Path, tmp_path: Path) -> None:
    source, rows = read(folder)
    assert rows == [
        Row(1, {"text": "# First\n", "file": "a.md"}),
        Row(2, {"text": "Second.", "file": "b.txt"}),
        Row(3, {"text": "Third.", "file": "deeper/c.TXT"}),
    ]
    assert source.note == "plain text, UTF-8, 3 documents"
    assert source.done() == (source.done()[1], source.done()[1])
    (tmp_path / "out").mkdir()
    report = check(Order(folder), PLAIN, tmp_path / "out")
    assert (report.kind, report.format, report.ok, report.note) == ("text", "text", 3, source.note)
    assert [record.text for record in read_records(tmp_path / "out" / report.id)] == ["# First\n", "Second.", "Third."]


def test_files_of_a_folder_without_text_are_findings(folder: Path, tmp_path: Path) -> None:
    (folder / "0.txt").write_text("", encoding="utf-8")
    (folder / "1.txt").write_text(" \n", encoding="utf-8")
    (folder / "2.txt").write_bytes(b"%PDF-1.7")
    (folder / "picture.png").write_bytes(b"\x89PNG")
    (folder / "link.txt").symlink_to("/etc/passwd")
    source, rows = read(folder)
    empty, blank, other = (row for row in rows if isinstance(row, Finding))
    assert (empty.kind, empty.row, empty.reason) == ("empty", 1, "0.txt: the file is empty")
    assert (blank.kind, blank.row) == ("empty", 2) and "1.txt" in blank.reason
    assert (other.kind, other.row) == ("unreadable", 3) and "2.txt is a PDF" in other.reason
    assert [row.number for row in rows if isinstance(row, Row)] == [4, 5, 6]
    assert source.note == "plain text, UTF-8, without 2 other files that are not .txt or .md, 3 documents"
    (tmp_path / "out").mkdir()
    report = check(Order(folder), PLAIN, tmp_path / "out")
    assert (report.rows, report.ok) == (6, 3)
    assert {finding.kind for finding in iter_findings(tmp_path / "out" / report.id)} == {"empty", "unreadable"}


def test_folders_that_are_no_texts_are_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "rows.jsonl").write_text("{}", encoding="utf-8")
    assert "Use one of them, such as rows.jsonl" in refused(folder)
    (tmp_path / "none").mkdir()
    assert "is a folder without .txt or .md files" in refused(tmp_path / "none")
    (folder / "rows.jsonl").unlink()
    (folder / "large.txt").write_bytes(b"word\n" * 2**20)
    assert "STUDIO_MAX_FILE_MB" in refused(folder, Limits(max_file_mb=2))
    assert "STUDIO_MAX_ROWS" in refused(folder, Limits(max_rows=2))


def test_a_held_out_folder(folder: Path, write: Write, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    report = check(Order(write("a.txt", "Something else.\n"), held_out=folder), PLAIN, tmp_path / "out")
    assert (report.ok, report.held_out) == (4, 3)


def test_a_large_text_streams(write: Write) -> None:
    path = write("a.txt", "".join(f"{number} {'word ' * 100}\n\n" for number in range(20_000)))
    with open_rows(path, SMALL) as source:
        next(source.rows)
        done, size = source.done()
        assert 0 < done < size
        assert sum(1 for _ in source.rows) > 5
