"""Progress bar on a terminal, drawn by rich."""

import math
from datetime import timedelta
from threading import Timer
from types import TracebackType
from typing import Self, TextIO

from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from studio.cli.terminal import console

_AFTER = 1.0  # seconds; what is over sooner shows no bar
_PERIOD = 120.0  # the speed of the last seconds, from which the time left follows


def _text(form: str) -> TextColumn:
    return TextColumn(form, markup=False, table_column=Column(no_wrap=True, overflow="ellipsis"))


class _TimeLeft(ProgressColumn):
    """The time left: as the task knows it, or from its speed."""

    def render(self, task: Task) -> Text:
        left = task.fields["left"]
        seconds = task.time_remaining if left is None else left
        return Text("" if seconds is None else f"{timedelta(seconds=math.ceil(seconds))} left")


class Bar:
    """A line that says what is done, how far it is and how long it will take.

    It appears `after` seconds after the first update and leaves nothing behind. What is written to stderr meanwhile
    appears above it.
    """

    def __init__(self, stream: TextIO, after: float = _AFTER) -> None:
        self._progress = Progress(
            _text("{task.description}"),
            BarColumn(bar_width=20),
            _text("{task.fields[amount]}"),
            _TimeLeft(table_column=Column(no_wrap=True)),
            console=console(stream),
            transient=True,
            redirect_stdout=False,
            speed_estimate_period=_PERIOD,
        )
        self._timer = Timer(after, self._progress.start)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if self._timer.ident is not None:
            self._timer.join()
        self._progress.stop()

    def update(self, what: str, done: int, of: int, amount: str = "", left: float | None = None) -> None:
        """Set what is done, how far it is (`amount` says it in words) and the seconds left; of: 0 for an open end."""
        progress = self._progress
        if not progress.tasks:
            progress.add_task(what, total=of or None, completed=done, amount=amount, left=left)
            self._timer.start()
            return
        task = progress.tasks[0]
        if done < task.completed or (of or None) != task.total:  # another task: its speed is not the last one's
            progress.reset(task.id)
            task.total = of or None
        progress.update(task.id, description=what, completed=done, amount=amount, left=left)
