"""Check a file before it becomes a dataset: its format, what is wrong with it, and the rows it rejects.

A check runs in a child process with bounded memory and time. Its result waits in the home's staging folder, under a
token, until it is added (datasets.py) or a day has passed.
"""

import contextlib
import csv
import io
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from studio.dataset import store as files
from studio.dataset.checking import OutOfTurn, Report
from studio.dataset.columns import is_cut
from studio.dataset.read.accounting import Use
from studio.dataset.read.formats import FORMATS, Layout
from studio.dataset.read.limits import Limits, limit
from studio.dataset.read.reader import Proposal, Undecodable
from studio.dataset.read.rows import FAULTS, Finding, Row
from studio.dataset.read.strict import listed
from studio.errors import BadInput, NotFound, StudioError, Unavailable
from studio.launch.short_tasks import Died
from studio.rundir import read_json, write_json
from studio.services.core import access, jobs, quotas
from studio.services.core.jobs import Progress
from studio.services.core.studio import FILE_READER, Studio

__all__ = [
    "FAULTS",
    "FORMATS",
    "Finding",
    "OutOfTurn",
    "Report",
    "Undecodable",
    "Use",
]  # for pages, which import services only
T = TypeVar("T")
_TOKEN = re.compile(r"[0-9a-f]{1,64}")
_DAY, _HOUR = 86_400.0, 3600.0
_WHOSE = "whose.json"  # next to an uploaded file: its owner
_HUB_ID = re.compile(
    r"[\w.-]+/(?!\S+\.(?:jsonl?|ndjson|[ct]sv|parquet|arrow|feather|gz)$)[\w.-]+(:[^@]+)?(@[0-9a-f]+)?"
)
# Environment variables for the download, besides a worker's usual ones; no other child process gets the token.
_HUB_NAMES = ("HF_TOKEN", "HF_ENDPOINT", "HTTPS_PROXY", "https_proxy")
# Spreadsheets run a cell that begins like this as a formula (OWASP, CSV injection), unless a quote precedes it.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


@dataclass(frozen=True, slots=True)
class Options:
    """How to read a file; empty values are detected. held_out: a second file, to evaluate on.

    ignore: columns and message keys to leave out. merge: join consecutive messages of one role. drop: leave out
    answers before the first question, and questions after the last answer. header: whether the first row of a csv file
    names its columns, None to detect it.
    """

    format: str = ""
    mapping: Mapping[str, str] = field(default_factory=dict)
    encoding: str = ""
    delimiter: str = ""
    held_out: str = ""
    ignore: Sequence[str] = ()
    merge: bool = False
    drop: bool = False
    header: bool | None = None


@dataclass(frozen=True, slots=True)
class Checked:
    """A checked file. path: the file, or the hub dataset and its revision.

    token: name of the result, with which `examples` shows it and `datasets.keep` adds it.
    """

    token: str
    path: str
    options: Options
    report: Report


def take_in(studio: Studio, path: str | Path) -> str:
    """Move an uploaded file to where no page can read it; returns its new path."""
    # Other files of the home are not uploads: they belong to someone.
    place, settings = Path(path).resolve(), studio.settings
    foreign = place.is_relative_to(settings.home.resolve()) and not place.is_relative_to(settings.uploads.resolve())
    if not Path(path).is_file() or foreign:
        raise BadInput(f"There is no uploaded file {Path(path).name!r}. Upload it again.")
    folder = _new_folder(studio)
    write_json(folder / _WHOSE, {"owner": studio.owner})
    target = folder / (Path(path).name if Path(path).name != _WHOSE else "upload")
    shutil.move(path, target)
    return str(target)


def _refuse_foreign(studio: Studio, path: str) -> None:
    """Raise BadInput unless this is the asker's own upload, where take_in put it: visitors may name no other file."""
    folder = Path(path).absolute().parent
    upload = read_json(folder / _WHOSE) if folder.parent == studio.settings.staging.absolute() else None
    mine = upload is not None and upload.get("owner") == studio.owner and Path(path).name != _WHOSE
    if not mine or Path(path).is_symlink():
        raise BadInput("Files can be named only by the person at this machine. Upload the file instead.")


def checking(studio: Studio, path: str | Path, options: Options | None = None) -> Generator[Progress, None, Checked]:
    """Check a file, or a hub dataset by its id (owner/name or owner/name:part), step by step.

    Closing the generator cancels the check and leaves no files.

    Raises BadInput that names what is wrong, where, and what to do; Undecodable with proposals when the encoding has
    to be chosen; OutOfTurn when no row is usable, but merging or dropping turns may help.
    """
    options, source = options or Options(), str(path)
    from_hub = bool(_HUB_ID.fullmatch(source))
    if access.may_name_files(studio):
        from_hub = from_hub and not Path(path).absolute().exists()
    else:
        for named in (source, options.held_out):
            if named and not (named is source and from_hub):
                _refuse_foreign(studio, named)
    quotas.check_storage(studio)
    folder = _new_folder(studio)
    try:
        files_there = [Path(path).absolute()]
        if from_hub:
            files_there, source = yield from _from_hub(studio, folder, source)
        order = _order(files_there, options)
        report = yield from work(studio, folder, order, files_there[0].name)
        checked = Checked(folder.name, source, options, _report(report))
        write_json(folder / "checked.json", {"owner": studio.owner} | asdict(checked))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return checked


def _order(paths: Sequence[Path], options: Options) -> dict[str, Any]:
    return {
        "task": "check",
        "file": str(paths[0]),
        "shards": [str(path) for path in paths[1:]],
        "held_out": str(Path(options.held_out).absolute()) if options.held_out else "",
        "format": options.format,
        "mapping": dict(options.mapping),
        "how": {"encoding": options.encoding, "delimiter": options.delimiter, "header": options.header},
        "layout": {"ignore": list(options.ignore), "merge": options.merge, "drop": options.drop},
    }


def _from_hub(studio: Studio, folder: Path, source: str) -> Generator[Progress, None, tuple[list[Path], str]]:
    """The data files of a hub dataset (owner/name[:part][@revision]), and the name of their source."""
    if studio.settings.offline:
        raise Unavailable(
            f"There is no file {source}. It may be the id of a dataset on the Hugging Face hub, but this studio is set "
            "to stay offline."
        )
    named, _, revision = source.partition("@")
    hub_id, _, part = named.partition(":")
    # Kept for a day, so that the next check, with a mapping, need not download it again.
    target = studio.settings.cache / "hub" / hub_id.replace("/", "+")
    target.mkdir(parents=True, exist_ok=True)
    names = [name for name in _HUB_NAMES if name != "HF_TOKEN" or access.is_local(studio)]
    online = {"HF_HUB_OFFLINE": "0"} | {name: os.environ[name] for name in names if name in os.environ}
    arguments = [hub_id, part, revision, str(target), str(studio.settings.max_file_mb * 2**20)]
    job = jobs.ShortJob(
        "studio.hub.dataset", arguments, folder / "log.txt", "files", doing=f"Asking the hub for {hub_id}",
        seconds=studio.settings.read_seconds, environment=online,
        missing=f"The download of {hub_id} ended without a result. Try again.",
    )  # fmt: skip
    line = yield from job.run()
    return [Path(path) for path in line["files"]], f"{named}@{line['revision']}"


def check(
    studio: Studio,
    path: str | Path,
    options: Options | None = None,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Checked:
    """Run `checking` to its end."""
    return jobs.drive(checking(studio, path, options), progress)


def check_rows(studio: Studio, rows: Sequence[object], options: Options | None = None) -> Checked:
    """Check rows that do not come from a file, each as the value of a JSON line."""
    folder = _new_folder(studio)
    write_json(folder / _WHOSE, {"owner": studio.owner})
    path = folder / "rows.jsonl"
    try:
        with path.open("w", encoding="utf-8", errors="surrogatepass") as file:
            file.writelines(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
        return check(studio, path, options)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def get(studio: Studio, token: str) -> Checked:
    """The result of a check, by its token; raises NotFound when it was added, discarded or is older than a day."""
    value = read_json(_folder(studio, token) / "checked.json")
    if value is None or value.get("owner") != studio.owner:
        raise NotFound("This check is no longer here. Check the file again.")
    return Checked(value["token"], value["path"], Options(**value["options"]), _report(value["report"]))


def _report(values: Mapping[str, Any]) -> Report:
    uses = {name: [Use(**use) for use in values[name]] for name in ("column_uses", "key_uses")}
    return Report(**(dict(values) | uses))


def needs_mapping(checked: Checked) -> BadInput:
    """The error for a file whose format the person has to confirm, with what to say."""
    report = checked.report
    if report.suggested == "preference":
        return BadInput(f"{Path(checked.path).name}: {report.why}. To train on the chosen answers: --format preference")
    if report.suggested == "kto":
        return BadInput(f"{Path(checked.path).name}: {report.why}. To train on the good answers: --format kto")
    maps = report.mapping if "messages" in report.mapping or {"instruction", "output"} <= set(report.mapping) else {}
    tried = " ".join(f"--map {shlex.quote(f'{field}={name}')}" for field, name in maps.items())
    way = f"Try: {tried}" if tried else "On the command line: --map instruction=COLUMN --map output=COLUMN"
    stop = "" if report.why.endswith("?") else "."
    there = listed(report.choices)
    return BadInput(f"{Path(checked.path).name}: {report.why}{stop} {way} (there are: {there}).")


def preview(checked: Checked, mapping: Mapping[str, str]) -> list[list[dict[str, str]]]:
    """The first rows under an unfinished mapping, as messages ({"role", "content"}) with shortened texts.

    Plain text becomes one message with the role `text`. Raises BadInput that says what the mapping lacks.
    """
    report = checked.report
    layout = Layout("mapped", mapping, list(dict.fromkeys([*report.choices, *report.columns])))
    shown = []
    for number, values in enumerate(report.samples, start=1):
        if any(is_cut(values.get(mapping.get(name, ""), "")) for name in ("messages", "tools")):
            continue  # the JSON of a long list, which its sample has only in part
        record = layout.record(Row(number, dict(values)))
        if isinstance(record, Finding):
            raise BadInput(f"Row {record.row}, field {record.field}: {record.reason}; {record.fix}.")
        shown.append(record.messages or [{"role": "text", "content": record.text}])
    return shown


def discard(studio: Studio, token: str) -> None:
    """Delete a check and its files."""
    shutil.rmtree(_folder(studio, get(studio, token).token), ignore_errors=True)


def folder_of(studio: Studio, token: str) -> Path:
    """The folder that a check made, laid out like a dataset's."""
    report = get(studio, token).report
    if not report.id:
        raise BadInput("This file needs a mapping before there is anything to look at.")
    return _folder(studio, token) / report.id


def clean_up(studio: Studio) -> None:
    """Remove checks and downloads older than a day, and uploads that no page took within an hour."""
    settings = studio.settings
    for root, seconds in ((settings.staging, _DAY), (settings.cache / "hub", _DAY), (settings.uploads, _HOUR)):
        for path in root.iterdir() if root.is_dir() else ():
            if time.time() - path.stat().st_mtime > seconds:
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)


def rejects(folder: Path, form: str) -> Iterator[str]:
    """The rows of a folder that were left out, with reasons, as lines of a jsonl or csv file."""
    left_out = (finding for finding in files.iter_findings(folder) if FAULTS[finding.kind].left_out)
    values = (_reject(finding) for finding in left_out)
    if form == "jsonl":
        yield from (json.dumps(value, ensure_ascii=False) + "\n" for value in values)
        return
    if form != "csv":
        raise BadInput(f"Rejects are written as .jsonl or .csv, not as .{form}.")
    yield _csv_line(["row", "file", "kind", "field", "reason", "fix", "content"])
    for value in values:
        yield _csv_line([_escape_formula(str(cell)) for cell in value.values()])


def _reject(finding: Finding) -> dict[str, Any]:
    return {
        "row": finding.row,
        "file": "held out" if finding.held_out else "training",
        "kind": FAULTS[finding.kind].label,
        "field": finding.field,
        "reason": finding.reason,
        "fix": finding.fix,
        "content": finding.raw,
    }


def _escape_formula(cell: str) -> str:
    """A cell that no spreadsheet runs as a formula."""
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


def _csv_line(cells: Sequence[str]) -> str:
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\r\n").writerow(cells)
    return text.getvalue()


def work(studio: Studio, folder: Path, order: dict[str, Any], name: str) -> Generator[Progress, None, dict[str, Any]]:
    """Run data work in `folder` in a child process and return its report. name: the file, for messages."""
    settings = studio.settings
    order |= {
        "folder": str(folder),
        "memory_mb": settings.read_memory_mb,
        "limits": asdict(Limits.of(settings)),
    }
    write_json(folder / "order.json", order)
    job = jobs.ShortJob(
        FILE_READER, [str(folder / "order.json")], folder / "log.txt", "report", doing=f"Reading {name}",
        seconds=settings.read_seconds, server=studio.file_reader, fault=lambda line: _fault(line, name),
        missing=f"Reading {name} ended without a result. Try again.",
    )  # fmt: skip
    try:
        report: dict[str, Any] = (yield from job.run())["report"]
    except Died as died:
        raise _error_of(died, name, settings.read_seconds) from None
    return report


def _fault(line: Mapping[str, Any], name: str) -> BadInput:
    if line.get("memory"):
        return _too_large(name)
    if line.get("proposals"):
        return Undecodable(str(line["error"]), [Proposal(**item) for item in line["proposals"]])
    return (OutOfTurn if line.get("turns") else BadInput)(str(line["error"]))


def _error_of(died: Died, name: str, seconds: float) -> StudioError:
    """The error for a child process that died: too slow, too large, or as it says itself."""
    if died.timed_out:
        return BadInput(f"Reading {name} took longer than {seconds:g} s and was ended; {limit('read_seconds')}.")
    if died.signal in (signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS):
        return _too_large(name)
    return died


def _too_large(name: str) -> BadInput:
    return BadInput(
        f"{name} takes more memory to read than is allowed, or is damaged; {limit('read_memory_mb')}. "
        "Save it as .jsonl, which is read line by line, or split it."
    )


@contextlib.contextmanager
def staged(studio: Studio) -> Iterator[Path]:
    """A working folder that is removed afterwards."""
    folder = _new_folder(studio)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _new_folder(studio: Studio) -> Path:
    folder = studio.settings.staging / secrets.token_hex(8)
    folder.mkdir(mode=0o700)
    return folder


def is_here(studio: Studio, token: str) -> bool:
    """Whether this is the token of a waiting check."""
    return _TOKEN.fullmatch(token) is not None and (studio.settings.staging / token).is_dir()


def _folder(studio: Studio, token: str) -> Path:
    if not _TOKEN.fullmatch(token):
        raise NotFound("This check is no longer here. Check the file again.")
    return studio.settings.staging / token
