"""High-resolution land-use maps from coarse scenarios, inside xarray."""
