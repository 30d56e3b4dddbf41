"""Coarse land-use states: reading them, and checking them before they are downscaled."""
