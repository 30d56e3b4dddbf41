"""A notebook that is not there: what a kernel of Jupyter has, as far as xland and rich look for it."""

from __future__ import annotations

import builtins
import sys
from types import ModuleType

import pytest


class ZMQInteractiveShell:
    """The shell by whose name rich knows a notebook."""


class Output:
    """One output of a cell: every text that it showed, the last one as the reader sees it."""

    def __init__(self, text):
        self.texts = [text]

    def update(self, text, *, raw):
        assert raw
        self.texts.append(text)

    @property
    def shown(self):
        return self.texts[-1]["text/plain"]


@pytest.fixture
def notebook(monkeypatch):
    """Make this process a kernel without ipywidgets; gives the outputs that appear in its cell."""
    outputs = []

    def display(*shown, raw=False, display_id=None, **kwargs):
        outputs.append(Output(*shown[:1]) if raw else shown)
        return outputs[-1] if display_id else None

    package, module = ModuleType("IPython"), ModuleType("IPython.display")
    module.display, package.display = display, module
    monkeypatch.setattr(builtins, "get_ipython", ZMQInteractiveShell, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")  # as ipykernel does
    for name, each in {"IPython": package, "IPython.display": module, "ipywidgets": None}.items():
        monkeypatch.setitem(sys.modules, name, each)
    return outputs
