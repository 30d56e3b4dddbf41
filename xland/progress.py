"""Progress of long work: a bar in a terminal and in a notebook, and lines with the time in the log of a batch job."""

from __future__ import annotations

import io
import sys
import time
from typing import Any

from rich.console import Console, ConsoleRenderable
from rich.live import Live
from rich.progress import MofNCompleteColumn, Progress, ProgressColumn, Task, TaskProgressColumn, TextColumn

MINUTE = 60.0
"""Seconds after which a log has a further line of work that goes on."""

AT_ONCE = 2.0
"""Seconds that work may take without a line in a log."""

_PARTS = 20  # of the work, after each of which a log has a line


class Bar(Progress):
    """rich's bar of progress.

    A notebook shows it without ipywidgets, which rich asks for. Where nobody watches, lines on standard error take its
    place.
    """

    def __init__(self, *columns: ProgressColumn, transient: bool = False, disable: bool = False) -> None:
        notebook = Console().is_jupyter
        # a kernel says of itself that it is a terminal with colours
        console = Console(stderr=not notebook, force_jupyter=False, force_terminal=False if notebook else None)
        super().__init__(*columns, console=console, transient=transient, disable=disable)
        if notebook:
            self.live = _InPlace(console=console, transient=transient, get_renderable=self.get_renderable)
        elif not is_watched():
            self.live = _Lines(console=console, get_renderable=self.get_renderable)
            self.live.bar = self

    def line(self, task: Task) -> str:
        """Return the texts of a bar, without the bar: what is done, its share, and the time that is left."""
        told = [each for each in self.columns if isinstance(each, TextColumn | MofNCompleteColumn)]
        parts = [str(each(task)).strip() for each in told if not isinstance(each, TaskProgressColumn)]
        share = f"{task.percentage:.0f} %"
        text = " ".join(parts) if share in parts else f"{' '.join(parts)}, {share}"
        left = None if task.finished else task.time_remaining
        return text if left is None else f"{text}, {left / MINUTE:.0f} min left"

    def stop(self) -> None:
        """Stop; rich would end its line on standard output, which a notebook does not have."""
        self.live.stop() if isinstance(self.live, _InPlace | _Lines) else super().stop()


def is_watched() -> bool:
    """Whether somebody sees a bar: standard error is a terminal, or this is a notebook."""
    return sys.stderr.isatty() or Console().is_jupyter


class _InPlace(Live):
    """One output of a cell in a notebook, whose text is replaced."""

    handle: Any = None

    def refresh(self) -> None:
        from IPython.display import display

        with self._lock:
            page = Console(file=io.StringIO(), width=80, force_jupyter=False, color_system=None)
            if self.is_started or not self.transient:
                page.print(self.get_renderable())
            text = {"text/plain": page.file.getvalue().rstrip()}  # type: ignore[attr-defined]
            if self.handle is None:
                self.handle = display(text, raw=True, display_id=True)
            else:
                self.handle.update(text, raw=True)


class _Lines(Live):
    """Lines of a log: one at each twentieth of the work, and one a minute; none of work that is done at once."""

    bar: Any
    begun = False
    part = 0
    due = 0.0

    def start(self, refresh: bool = False) -> None:
        self.due = time.monotonic() + AT_ONCE
        super().start(refresh)

    def refresh(self) -> None:
        now = time.monotonic()
        with self._lock:
            for task in self.bar.tasks:
                part = int(task.percentage * _PARTS / 100)
                if task.total and (now > self.due or (self.begun and part > self.part)):
                    self.begun, self.part, self.due = True, part, now + MINUTE
                    sys.stderr.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {self.bar.line(task)}\n")
                    sys.stderr.flush()

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return renderables
