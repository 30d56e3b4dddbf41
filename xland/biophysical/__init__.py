"""Leaf area index, and other variables of the vegetation, month by month from land use and climate."""
