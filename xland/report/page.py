"""The page: sections and what is around them, as HTML that carries everything in itself."""

from __future__ import annotations

from typing import Any


def render(**content: Any) -> str:
    """Return the page; ``content`` are the names that its template uses."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("xland.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["kind"] = lambda part: type(part).__name__
    return environment.get_template("report.html.j2").render(**content)
