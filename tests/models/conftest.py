"""The tests beside this file run on one thread."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.threads import one_thread

__all__ = ["one_thread"]


@pytest.fixture
def breaking(monkeypatch):
    """Break off what writes files when it comes to put one of this name in its place."""

    @contextmanager
    def broken(name):
        rename = Path.replace

        def break_off(path, target):
            if target.name == name:
                raise KeyboardInterrupt
            return rename(path, target)

        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", break_off)
            with pytest.raises(KeyboardInterrupt):
                yield

    return broken
