"""Biophysical variables of land, month by month, from class maps and climate: leaf area index first."""
