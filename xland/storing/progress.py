"""The bar that shows how many blocks of a store are written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(
    total: int, before: int, notes: Iterable[str] = (), *, shown: bool = True
) -> Iterator[Callable[[], None]]:
    """Show finished blocks.

    Parameters
    ----------
    total : int
        Number of blocks.
    before : int
        How many of them a former run has finished.
    notes : iterable of str
        Lines to print before the bar.
    shown : bool
        Whether there is a bar at all.

    Yields
    ------
    callable
        To be called once for each block that is finished.
    """
    if not shown:
        yield lambda: None
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("writing"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        for note in notes:
            bar.console.print(note, markup=False, highlight=False)
        task = bar.add_task("blocks", total=total, completed=before)
        yield lambda: bar.advance(task)
