"""Dask workers wherever there are some: this machine's cores or GPUs, SLURM jobs, a scheduler that runs already.

:func:`open_cluster` yields a client for any of them; what is computed while it is open runs there.
"""

from __future__ import annotations

from xland.clusters.opening import Kind, Wanted, open_cluster, register_cluster, wait_for_workers
from xland.clusters.profile import Profile, list_profiles, load_profile
from xland.clusters.slurm import job_script, slurm_workers

register_cluster("slurm", Kind(slurm_workers, ("profile",)))

__all__ = [
    "Kind",
    "Profile",
    "Wanted",
    "job_script",
    "list_profiles",
    "load_profile",
    "open_cluster",
    "register_cluster",
    "wait_for_workers",
]
