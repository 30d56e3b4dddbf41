"""Learning in several processes on Dask workers."""
