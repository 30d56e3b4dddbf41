"""Bars of progress that a terminal and a notebook show alike."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress import Progress, ProgressColumn


class Bar(Progress):
    """rich's bar of progress; a notebook shows it without ipywidgets, which rich asks for."""

    def __init__(
        self, *columns: ProgressColumn, stderr: bool = False, transient: bool = False, disable: bool = False
    ) -> None:
        notebook = Console().is_jupyter
        # a kernel says of itself that it is a terminal with colours
        console = Console(stderr=stderr, force_jupyter=False, force_terminal=False if notebook else None)
        super().__init__(*columns, console=console, transient=transient, disable=disable)
        if notebook:
            self.live = _InPlace(console=console, transient=transient, get_renderable=self.get_renderable)

    def stop(self) -> None:
        """Stop; rich would end its line on standard output, which a notebook does not have."""
        self.live.stop() if isinstance(self.live, _InPlace) else super().stop()


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
