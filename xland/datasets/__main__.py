"""``python -m xland.datasets``: fetch and prepare all reference data."""

from __future__ import annotations

import sys

from xland.datasets import SOURCES, cache_dir, fetch_all
from xland.errors import DatasetError


def main() -> int:
    """Fetch and prepare everything; return 1 with a message where that fails."""
    from rich.console import Console

    console = Console(stderr=True)
    try:
        fetch_all()
    except DatasetError as error:
        console.print(f"[bold red]Reference data:[/] {error}", highlight=False)
        return 1
    for name, source in SOURCES.items():
        console.print(f"  {name:<12} {source.title} [dim]({source.licence})[/]", highlight=False)
    console.print(f"Reference data are ready in {cache_dir()}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
