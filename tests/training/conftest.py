"""The tests beside this file run on one thread."""

from __future__ import annotations

from tests.threads import one_thread

__all__ = ["one_thread"]
