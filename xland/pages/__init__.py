"""Pages of HTML that need no other file: style and pictures inside, no script, and a policy that says so."""

from __future__ import annotations

from typing import Any


def render(template: str, **values: Any) -> str:
    """Return a page; whatever is put into it is text, unless it is markup of ours."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("xland.pages", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["kind"] = lambda part: type(part).__name__
    return environment.get_template(template).render(**values)
