"""Grids, coordinates and years: where and when the cells of any Dataset are."""
