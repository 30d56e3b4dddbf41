"""Coarse totals that stay what the scenario said: fractions, maps and changes, one block at a time."""
