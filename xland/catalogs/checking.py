"""Comparing a catalog with its stores."""

from __future__ import annotations


class Checked:
    """What was found, as a table."""
