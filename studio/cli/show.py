"""What commands print about checks, estimates and runs: lines for people, or one JSON object for programs."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from studio.cli.output import Part, cell, clean_line, grid, heading, on_terminal, say, show_json, table
from studio.services.core.studio import Studio
from studio.services.data.checks import FAULTS, Checked, Finding, Use
from studio.services.data.datasets import DatasetInfo, verdict_of
from studio.services.data.examples import LengthView
from studio.services.host.doctor import Finding as MachineFinding
from studio.services.host.usage import Usage
from studio.services.planning.estimates import Estimate
from studio.services.runs import history
from studio.services.runs import runs as run_service
from studio.services.runs.history import Story
from studio.services.runs.runs import Points, RunInfo
from studio.services.runs.trash import Emptied

GIB = 2**30
_SHOWN = 20
_REJECTED = ("row", "kind", "field", "reason", "fix", "held_out")


def show_check(
    checked: Checked,
    findings: Sequence[Finding],
    lengths: LengthView | None,
    measured: tuple[str | None, float],
    as_json: bool,
) -> None:
    """Print the result of `check`. measured: the model whose tokens were counted, and the seconds the check took."""
    report, (model, seconds) = checked.report, measured
    verdict = lengths.verdict if lengths else verdict_of(checked)
    if as_json:
        extra = {"model": model, "verdict": asdict(verdict), "seconds": round(seconds, 3)}
        show_json(_check_json(checked, findings, lengths) | extra)
        return
    say(f"Format {report.format}: {report.why} ({report.note}).")
    say(_uses("Columns", report.column_uses))
    if report.key_uses:
        say(_uses("Message keys", report.key_uses))
    for item in findings[:_SHOWN]:
        where = f", field {item.field}" if item.field else ""
        place = f"held-out row {item.row}" if item.held_out else f"row {item.row}"
        say(f"  {place}{where}: {item.reason}; {item.fix}")
    if len(findings) > _SHOWN:
        say(f"  and {len(findings) - _SHOWN:,} more; --rejects FILE.csv writes all rows that are left out")
    if lengths:
        sizes = lengths.tokens
        say(
            f"Tokens for {model}: {sizes['total']:,}, {sizes['trained']:,} of them trained; an example has "
            f"{sizes['min']:,} to {sizes['max']:,}, half of them up to {sizes['p50']:,}, 95% up to {sizes['p95']:,}."
        )
        for remark in lengths.remarks:
            say(f"{remark.examples:,} examples: {remark.text}; {remark.fix}.")
        if lengths.refused[0]:
            say(f"{lengths.refused[0]:,} rows are refused by the template. {lengths.refused[1]}")
    say((verdict.text, verdict.mark))


def _check_json(checked: Checked, findings: Sequence[Finding], lengths: LengthView | None) -> dict[str, Any]:
    report = checked.report
    rejected = [item for item in findings if FAULTS[item.kind].left_out]
    return {
        "format": report.format,
        "why": report.why,
        "note": report.note,
        "columns": [_use(use) for use in report.column_uses],
        "message_keys": [_use(use) for use in report.key_uses],
        "mapping": report.mapping,
        "rows": report.rows,
        "ok": report.ok,
        "held_out": report.held_out,
        "rejected": [{name: getattr(item, name) for name in _REJECTED} for item in rejected],
        "duplicates": report.counts.get("duplicate", 0),
        "near_duplicates": report.counts.get("near_duplicate", 0),
        "leaks": report.counts.get("leak", 0),
        "tokens": lengths.tokens if lengths else None,
        "max_length": lengths.max_length if lengths else None,
        "truncated": lengths.rows_cut if lengths else None,
        "answers_lost": lengths.answers_lost if lengths else None,
        "untrained": lengths.rows_untrained if lengths else None,
        "examples": lengths.examples if lengths else None,
        "refused": {"rows": lengths.refused[0], "reason": lengths.refused[1]} if lengths else None,
        "remarks": [asdict(remark) for remark in lengths.remarks] if lengths else None,
        "thinking_left_out": lengths.left_out if lengths else None,
        "sha256": report.sha256,
    }


def _use(use: Use) -> dict[str, Any]:
    """What became of a column or message key, as in the JSON of `check`."""
    words = use.use if use.status == "used" else f"{use.status}: {use.use}"
    return {"name": use.name, "use": words, "rows": use.rows}


def _uses(what: str, uses: Sequence[Use]) -> str:
    """One line on columns or message keys: each with where it went."""
    parts = [f"{item['name']} ({item['use']}, {item['rows']:,})" for item in map(_use, uses)]
    return f"{what}: {', '.join(parts)}"


def show_dataset(info: DatasetInfo, as_json: bool, rows: Sequence[dict[str, Any]] | None = None) -> None:
    """Print a dataset, and its rows if given."""
    if as_json:
        show_json(asdict(info) | ({"first": list(rows)} if rows is not None else {}))
        return
    refused = f"; {info.rejected:,} could not be used" if info.rejected else ""
    apart = f", {info.held_out:,} of them held out" if info.held_out else ""
    say(f"{info.name}: {info.rows:,} rows{apart}{refused}. Format {info.format}: {info.why}.")
    say(f"id {info.id[:12]} in {info.path}")
    for row in rows or []:
        heading(f"\n#{row['row']}")
        say(f"{row['prompt']}\n  -> {row['answer']}")


def show_estimate(estimate: Estimate, as_json: bool) -> None:
    """Print a memory estimate item by item, with warnings and fixes."""
    if as_json:
        show_json(asdict(estimate) | {"items": {item.key: item.bytes for item in estimate.items}})
        return
    rows: list[tuple[Part, ...]] = [(item.label, f"{item.bytes / GIB:.3f} GiB", item.note) for item in estimate.items]
    verdict, mark = ("fits", "good") if estimate.fits else ("does not fit", "bad")
    room = f"{verdict} in the {estimate.available / GIB:.1f} GiB free on {estimate.device}"
    rows.append(("Total", f"{estimate.total / GIB:.3f} GiB", (room, mark)))
    grid(rows, "{:20} {:>12}  {}")
    share = estimate.trainable / estimate.parameters
    say(f"{estimate.trainable:,} of {estimate.parameters:,} parameters are trained ({share:.2%})")
    if (dry := estimate.dry_run) and estimate.exact:
        say(
            f"Measured in a dry run: {dry.measured / GIB:.3f} GiB (predicted {dry.predicted / GIB:.3f}), "
            f"{dry.step_seconds:.2f} s for a step of {dry.rows} of the longest examples, {dry.length} tokens"
        )
    elif dry:
        say(f"Corrected by a dry run of a similar recipe: temporary memory is multiplied by {dry.correction:.2f}")
    if estimate.minutes:
        say(f"About {estimate.minutes:,.1f} minutes for {estimate.steps:,} steps ({estimate.minutes_from})")
    if estimate.fits:
        say(f"Batches up to {estimate.largest_batch:,} fit, or max_length up to {estimate.longest_length:,}")
    for line in estimate.warnings:
        say(f"- {line}")
    for fix in estimate.fixes:
        enough = " It then fits." if fix.enough else ""
        settings = " ".join(f"--set {name}={_setting(value)}" for name, value in fix.values.items())
        say(f"- {fix.words}: {fix.saved / GIB:.1f} GiB less, {fix.price}.{enough}  {settings}")


def _setting(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _run_json(info: RunInfo) -> dict[str, Any]:
    return run_service.as_dict(info)


def show_run(info: RunInfo, as_json: bool) -> None:
    """Print one run."""
    if as_json:
        show_json(_run_json(info))
        return
    place = f", number {info.position} in the queue" if info.position else ""
    say(f"{info.name} ({info.id}): ", (info.state, info.state), f"{place}, {info.message}")
    say(f"step {info.step} of {info.total_steps}, loss {cell(info.loss)}, evaluation loss {cell(info.eval_loss)}")
    say(f"model {info.model}, dataset {info.dataset}, in {info.path}")
    if info.remedy:
        say(info.remedy)


def show_story(story: Story, as_json: bool) -> None:
    """Print everything about a run: states, workers, checkpoints, samples, recipe, log."""
    if as_json:
        show_json(history.as_dict(story))
        return
    show_run(story.run, as_json=False)
    if story.run.cause:
        say(f"cause {story.run.cause}; {story.run.resume_hint}".rstrip("; "))
    say(f"dataset sha256 {story.dataset.get('sha256', '-')}")
    if story.predicted or story.measured:
        say(f"memory: predicted {_gib(story.predicted)}, measured {_gib(story.measured)}")
    if story.run.plan.get("engine"):
        say(f"engine {story.run.plan['engine']}: {story.run.plan.get('engine_why', '')}")
    heading("\nWhat happened")
    grid([(_when(event.time), (event.state, event.state), event.message) for event in story.states], "  {}  {}  {}")
    if story.warnings:
        heading("\nWarnings")
        say("\n".join(f"  {text}" for text in story.warnings))
    heading("\nWorkers")
    for attempt in story.attempts:
        state = "alive" if attempt.alive else attempt.state or "not started"
        where = (
            f"pid {attempt.pid} on {attempt.host or 'this machine'}, {attempt.device or 'no device yet'}"
            if attempt.pid
            else ""
        )
        where += f", {_gib(attempt.memory)} of RAM when last seen" if attempt.memory else ""
        say(f"  {attempt.number}: ", (state, state), f"  {where}  {attempt.message}".rstrip())
        if attempt.versions:
            say("     " + ", ".join(f"{name} {version}" for name, version in attempt.versions.items()))
    heading("\nCheckpoints" if story.checkpoints else "\nNo checkpoints")
    for point in story.checkpoints:
        whole = (point.fault, "bad") if point.fault else ("whole", "good")
        say(f"  step {point.step}: {point.bytes / 2**20:.1f} MiB, ", whole)
    for sample in story.samples:
        heading(f"\nSample at step {sample.get('step')}")
        say(f"  {sample.get('prompt')}\n  -> {sample.get('answer')}")
    if story.webhook:
        say(f"\nWebhook: {story.webhook}")
    heading("\nRecipe")
    say(story.recipe.rstrip())
    if story.log:
        heading("\nLast lines of the log")
        say("\n".join(story.log))


def _gib(value: int | None) -> str:
    return "-" if value is None else f"{value / GIB:.3f} GiB"


def _when(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))


def show_runs(infos: Sequence[RunInfo], as_json: bool, notices: Sequence[str] = ()) -> None:
    """Print a list of runs. Notices are on stderr already; the JSON includes them for programs."""
    if as_json:
        show_json({"runs": [_run_json(info) for info in infos]} | ({"notices": list(notices)} if notices else {}))
        return
    columns = ("id", "name", "state", "position", "cause", "step", "total_steps", "loss", "eval_loss")
    table(infos, (*columns, "model", "dataset", "tags", "bytes"), False, "runs")


def show_labels(info: RunInfo, as_json: bool) -> None:
    """Print a run's name, star, tags and notes."""
    if as_json:
        show_json(_run_json(info))
        return
    tags = ", ".join(info.tags) or "no tags"
    say(f"{info.name} ({info.id}): {'starred, ' if info.starred else ''}{tags}")
    if info.notes:
        say(info.notes)


def show_moved(infos: Sequence[RunInfo], words: str, as_json: bool) -> None:
    """Print runs that were moved into the trash or out of it."""
    if as_json:
        show_runs(infos, True)
        return
    for info in infos:
        say(f"{info.name} ({info.id}) {words}.")


def show_trash(infos: Sequence[RunInfo]) -> None:
    """Print the runs in the trash and how much disk space they take."""
    for info in infos:
        say(f"{info.name} ({info.id}): {_size(info.bytes)}")
    say(f"{len(infos):,} runs, {_size(sum(info.bytes or 0 for info in infos))}")


def show_emptied(emptied: Emptied, as_json: bool) -> None:
    """Print which runs were deleted, and which were kept and why."""
    if as_json:
        kept = [{"name": name, "reason": reason} for name, reason in emptied.kept]
        show_json({"freed": emptied.freed, "deleted": emptied.deleted, "kept": kept})
        return
    say(f"{len(emptied.deleted):,} runs deleted, {_size(emptied.freed)} freed.")
    for name, reason in emptied.kept:
        say(f"{name} was kept: {reason}")


def _size(count: int | None) -> str:
    if count is None:
        return "-"
    return f"{count / GIB:.2f} GiB" if count >= GIB else f"{count / 2**20:.2f} MiB"


def follow(studio: Studio, run_id: str, quiet: bool) -> RunInfo:
    """Wait for a run to end and show its steps on stderr. Leaving with Ctrl-C does not affect the run."""
    cursor = 0
    with _steps(quiet) as report:
        while True:
            info = run_service.get(studio, run_id)
            news = run_service.points(studio, run_id, cursor)
            cursor = news.after
            report(info, news)
            if info.final:
                return info
            time.sleep(0.5)


@contextlib.contextmanager
def _steps(quiet: bool) -> Iterator[Callable[[RunInfo, Points], None]]:
    """A callback that shows a run's steps: as a bar on a terminal, elsewhere one line per step."""
    if quiet:
        yield lambda info, news: None
    elif on_terminal(sys.stderr):
        from studio.cli.bar import Bar

        with Bar(sys.stderr) as bar:

            def draw(info: RunInfo, news: Points) -> None:
                amount = [f"{info.step}/{info.total_steps}"] if info.total_steps else []
                amount += [f"loss {cell(info.loss)}"] if info.loss is not None else []
                amount += [f"{info.tokens_per_s:.0f} tokens/s"] if info.tokens_per_s else []
                what = clean_line(info.doing or info.state)
                bar.update(what, info.step, info.total_steps, ", ".join(amount), info.seconds_left)
                _say_rest(news)

            yield draw
    else:
        doing = ""

        def write(info: RunInfo, news: Points) -> None:
            nonlocal doing
            if info.doing and info.doing != doing:
                say(info.doing, err=True)
            doing = info.doing
            for point in news.metrics:
                speed = f", {point['tokens_per_s']:.0f} tokens/s" if point["tokens_per_s"] else ""
                say(f"step {point['step']}/{info.total_steps}  loss {cell(point['loss'])}{speed}", err=True)
            _say_rest(news)

        yield write


def _say_rest(news: Points) -> None:
    """Say the notes of the run, such as what was left out of training, and its evaluations."""
    for mark in news.marks:
        if mark["kind"] == "note":
            say(mark["text"], err=True)
    for point in news.evals:
        say(f"step {point['step']}  evaluation loss {cell(point['eval_loss'])}", err=True)


def show_doctor(findings: Sequence[MachineFinding], as_json: bool) -> None:
    """Print the doctor's findings."""
    if as_json:
        show_json({"findings": [asdict(item) for item in findings]})
        return
    marks = {True: ("ok", "good"), False: ("!!", "bad")}
    grid([(marks[item.ok], f"{item.name}: {item.text}") for item in findings], "{}  {}")


def show_usage(usage: Usage, as_json: bool) -> None:
    """Print how much of the machine is in use now, and by which processes."""
    sample = usage.samples[-1]
    if as_json:
        show_json(asdict(sample) | {"holders": [asdict(holder) for holder in usage.holders]})
        return
    rows = [("memory", sample.memory_used, sample.memory_total), ("disk", sample.disk_used, sample.disk_total)]
    if sample.gpu_used is not None and sample.gpu_total is not None:
        rows.insert(0, ("GPU memory", sample.gpu_used, sample.gpu_total))
    sizes = [(name, f"{used / GIB:.1f} of {total / GIB:.1f} GiB") for name, used, total in rows]
    grid([("processor", f"{100 * sample.cpu:.0f} % in use"), *sizes], "{:10} {}")
    holders = []
    for holder in usage.holders:
        gpu = "" if holder.gpu is None else f", GPU {holder.gpu / GIB:.1f} GiB"
        holders.append((f"{holder.memory / GIB:.1f} GiB", holder.name + gpu))
    grid(holders, "  {:>10}  {}")
