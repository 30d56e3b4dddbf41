"""Train a model from a configuration: here, as one of several ranks, or on the workers of a cluster."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from xland.arguments import checked
from xland.biophysical.model import BiophysicalModel
from xland.biophysical.samples import VegetationConfiguration, read_vegetation
from xland.clusters import open_cluster, slurm
from xland.errors import ConfigurationError
from xland.models.checkpoint import Checkpoint
from xland.paths import local_path
from xland.training.configuration import Configuration, read_configuration
from xland.training.data.prepare import prepare
from xland.training.learn.group import Device
from xland.training.learn.loop import Report, learn, shown_progress
from xland.training.learn.state import check_folder
from xland.training.ranks.launching import RETURN, launch, training_profile

if TYPE_CHECKING:
    from distributed import Client

    from xland.clusters import Profile


@checked(ConfigurationError)
def train(
    configuration: str | Path | Configuration,
    output: str | Path,
    *,
    forcing: str | Path | xr.Dataset | None = None,
    target: str | Path | xr.DataArray | None = None,
    static: str | Path | xr.Dataset | None = None,
    prior: str | Path | xr.DataArray | None = None,
    store: str | Path | None = None,
    generator: Any = None,
    device: Device = "auto",
    cluster: str | None = None,
    client: Client | None = None,
    workers: int | None = None,
    profile: str | Path | Profile | None = None,
    restarts: int = 3,
    resume: bool = False,
    progress: bool = True,
    report: Report | None = None,
) -> Checkpoint | BiophysicalModel:
    """Train a model.

    A configuration with a table ``[target]`` is one of a variable of numbers, such as ``leaf-area``: `target` is then
    the folder with the files of its blocks, and nothing else is given.

    In one process by default; with `cluster` or `client` in one process on each Dask worker; and as one
    rank of several where ``torchrun``, or another launcher that sets ``RANK``, ``WORLD_SIZE``,
    ``MASTER_ADDR`` and ``MASTER_PORT``, started this process. Batches, losses and weights are the same
    for any number of processes, but for rounding and what is drawn in a step.

    Parameters
    ----------
    configuration : str, path or Configuration
        Name of a shipped configuration, a TOML file, or a configuration.
    output : path
        Folder for the model, its log and the state from which a training resumes.
    forcing : path or Dataset, optional
        Coarse fractions in place of those that the configuration names.
    target, static, prior : optional
        Maps and predictors in place of those that the configuration names; see
        :func:`xland.training.data.material.gather`.
    store : path, optional
        Training store that :func:`xland.prepare` wrote, in place of all of these. It is read patch by
        patch, so it may be larger than memory.
    generator : xbatcher.BatchGenerator, optional
        Over fields on the fine grid: its batches are the patches to learn from, in place of those of the
        schedule; see :func:`xland.training.data.patches.patches_from`. Not on a cluster.
    device : {"auto", "cpu", "cuda"}
        Where the network learns; ``auto`` takes a GPU if there is one.
    cluster : str, optional
        ``local``, ``cuda``, ``slurm``, or the address of a scheduler: see :func:`xland.clusters.open_cluster`. Each
        worker becomes one rank. Without a store, one is written to ``data.zarr`` in the output folder first.
    client : distributed.Client, optional
        A client of workers that are there already, in place of `cluster`.
    workers : int, optional
        Ranks on a cluster; by default one for each core, GPU, or worker of a SLURM job, or all workers of the client.
    profile : str, path or Profile, optional
        What a SLURM job asks for.
    restarts : int
        How often a training on a cluster starts again from its last state because a worker was lost.
    resume : bool
        Go on from the last state in `output`: the same losses and weights as without a pause.
    progress : bool
        Show a progress bar, and one line an epoch.
    report : callable, optional
        Called, in place of the progress bar, with ``training``, the finished share of all steps, and the loss of a step
        with samples a second and the share of time spent waiting for data; and with ``epoch`` and its scores.

    Returns
    -------
    Checkpoint or BiophysicalModel
        The model that validated best; of a variable of numbers, the model that learned from all blocks.

    Raises
    ------
    TrainingStoppedError
        If the process was asked to end (SIGTERM): the state is written, and ``resume`` goes on. A job
        that ends with its ``status``, 143, can be told from one that failed.
    XlandError
        If arguments contradict each other, or data, store, configuration, state or cluster do not fit.
    """
    given: dict[str, Any] = {"forcing": forcing, "target": target, "static": static, "prior": prior}
    named = [name for name, value in given.items() if value is not None]
    if store is not None and named:
        raise ConfigurationError(f"a store contains all data, but {', '.join(named)} are given too: leave out one")
    if cluster is not None and client is not None:
        raise ConfigurationError("give a cluster to open, or a client of one that is open, not both")
    alone = cluster is None and client is None
    extra = [name for name, value in {"workers": workers, "profile": profile}.items() if value is not None]
    if alone and extra:
        raise ConfigurationError(f"{', '.join(extra)} are for a training on a cluster: give one, or leave them out")
    if generator is not None and not alone:
        raise ConfigurationError("patches of a generator are for a training here or under torchrun, not on a cluster")
    if not isinstance(configuration, Configuration):
        if (vegetation := read_vegetation(configuration)) is not None:
            return _train_vegetation(vegetation, output, target, {**given, "store": store, "client": client})
        configuration = read_configuration(configuration)
    output = local_path(output, what="the folder of a training")
    check_folder(output, resume=resume)
    options: dict[str, Any] = {"device": device, "resume": resume}
    if alone:
        options |= {"given": given, "store": store, "generator": generator}
        return learn(configuration, output, progress=progress, report=report, **options)
    if store is None:
        store = output / "data.zarr"
        prepare(configuration, store, **given, resume=True, progress=progress)
    with shown_progress(report, enabled=progress) as say, ExitStack() as stack:
        if client is None:
            wanted = None if profile is None else training_profile(profile)
            opened = open_cluster(str(cluster), workers=workers, profile=wanted, progress=progress)
            client = stack.enter_context(opened)
        options |= {"store": store, "workers": workers, "restarts": restarts, "report": say}
        timeout = slurm.TIMEOUT if cluster == "slurm" else RETURN
        return launch(client, configuration, output, timeout=timeout, **options)


def _train_vegetation(
    configuration: VegetationConfiguration, output: str | Path, target: Any, given: dict[str, Any]
) -> BiophysicalModel:
    """Train a model of a variable of numbers, which takes no other data than the files of its blocks."""
    from xland.biophysical.fit import train_vegetation

    extra = [name for name, value in given.items() if value is not None and name != "target"]
    if extra or not isinstance(target, str | Path | None):
        raise ConfigurationError(
            f"a training of {configuration.target.name} takes a folder as target, and no {', '.join(extra) or 'arrays'}"
        )
    return train_vegetation(configuration, output, target)
