"""A configuration to begin from: all its entries with comments, those that it leaves out as comments."""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from xland.models.inputs import Channel
from xland.training.configuration import Configuration, parse_configuration, read_values

_HEAD = """\
# Configuration of a training: change it, then run `xland train FILE OUTPUT`.
# Entries that begin with a # have their defaults; to set one, remove the # (and that before the name of its section).
"""


def explain(configuration: str | Path = "luh2-0p05") -> str:
    """Return a configuration as TOML with a comment for each entry; entries that it leaves out are comments.

    Parameters
    ----------
    configuration : str or path
        Name of a shipped configuration, or a TOML file.

    Returns
    -------
    str

    Raises
    ------
    ConfigurationError
        If there is no such configuration, or it cannot be used.
    """
    values, path = read_values(configuration)
    parse_configuration(values, str(path))
    sections = {name: hint for name, hint in get_type_hints(Configuration).items() if is_dataclass(hint)}
    parts = [_HEAD + _entries(Configuration, values, skip=sections)]
    for name, kind in sections.items():
        title = f"[{name}]" if name in values else f"# [{name}]"
        parts.append(f"{_comment(_said(kind)[''])}{title}\n{_entries(kind, values.get(name, {}))}")
    return "\n".join(parts)


def _entries(kind: Any, values: Mapping[str, Any], skip: Mapping[str, Any] | None = None) -> str:
    """Return the entries of a section, each below its comment; those without a value with their defaults."""
    said, lines = _said(kind), []
    for each in fields(kind):
        if each.name in (skip or {}):
            continue
        lines.append(_comment(said.get(each.name, "")))
        default = each.default if each.default_factory is MISSING else each.default_factory()
        text = f"{each.name} = {_toml(values.get(each.name, default))}\n"
        lines.append(text if each.name in values else textwrap.indent(text, "# "))
    return "".join(lines)


def _said(kind: Any) -> dict[str, str]:
    """Return what the docstring of a section says of each entry, and at the empty name of itself."""
    from docstring_parser import numpydoc

    parsed = numpydoc.parse(inspect.getdoc(kind) or "")
    said = {name.strip(): str(each.description) for each in parsed.params for name in each.arg_name.split(",")}
    if "coarse" in said:
        channel = "; ".join(f"{name}: {text}" for name, text in _said(Channel).items() if name)
        said["coarse"] += f" Entries of a channel: {channel}"
    return said | {"": str(parsed.short_description)}


def _comment(text: str) -> str:
    plain = re.sub(r":\w+:`~?([^`]+)`|``([^`]+)``", lambda part: part[1] or part[2], " ".join(text.split()))
    return "".join(f"# {line}\n" for line in textwrap.wrap(plain, 100))


def _toml(value: Any) -> str:
    """Return a plain value as TOML."""
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{name} = {_toml(each)}' for name, each in value.items())} }}"
    if isinstance(value, list | tuple):
        if value and isinstance(value[0], Mapping):
            return "[\n" + "".join(f"  {_toml(each)},\n" for each in value) + "]"
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, str) and "\n" in value:
        return '"""\n' + value.strip("\n").replace("\\", "\\\\").replace('"""', '\\"""') + '"""'
    return json.dumps(value, ensure_ascii=False)
