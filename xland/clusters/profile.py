"""What a SLURM job asks for: profiles of known machines and TOML files of one's own."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from xland.errors import ClusterError

_SHIPPED = Path(__file__).parent / "profiles"


@dataclass(frozen=True)
class Profile:
    """One SLURM job, which holds one or more workers.

    Parameters
    ----------
    title : str
        What machine it is for.
    partition, account : str, optional
        As sbatch knows them. What is left out may come from ``SBATCH_PARTITION`` and ``SBATCH_ACCOUNT``.
    walltime : str
        Longest time of a job, ``hours:minutes:seconds``; a job that ends is submitted anew.
    directives : sequence of str
        Further options of sbatch, such as ``--qos=debug``.
    workers : int
        Worker processes in a job.
    gpus : int
        GPUs of a job; each gets one worker of dask-cuda, so that `workers` is their number.
    threads : int
        Threads of each worker: how many blocks it has in hand at once.
    cores : int
        Cores to ask for; by default one for each thread of each worker.
    memory : str
        Memory of a job, which its workers share, such as ``"120GB"``.
    ask_memory : bool
        Whether sbatch is told the memory, which some sites do not want.
    interface, host : str, optional
        Network interface (``ib0``) or address over which scheduler and workers talk; by default
        that of the host name.
    encrypted : bool
        Talk through TLS with keys made for this run, so that no other user of the machine can
        send work to the workers. The keys lie in `folder`.
    folder : str
        For job logs and keys, on a file system that all nodes see; below the working folder unless
        absolute.
    local_directory : str, optional
        Fast storage of a node, for what does not fit in memory, such as ``$TMPDIR``.
    environment : mapping of str to str
        Environment variables of the workers.
    setup : sequence of str
        Lines of shell before the workers start, such as ``module load cuda``.
    """

    title: str = ""
    partition: str = ""
    account: str = ""
    walltime: str = "01:00:00"
    directives: tuple[str, ...] = ()
    workers: int = 1
    gpus: int = 0
    threads: int = 1
    cores: int = 0
    memory: str = "4GB"
    ask_memory: bool = True
    interface: str = ""
    host: str = ""
    encrypted: bool = True
    folder: str = "slurm"
    local_directory: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    setup: tuple[str, ...] = ()

    @property
    def processes(self) -> int:
        """Workers in a job."""
        return self.gpus or self.workers

    def jobs(self, workers: int | None) -> int:
        """How many jobs hold so many workers; one by default."""
        return 1 if workers is None else -(-workers // self.processes)


def list_profiles(folder: Path | None = None) -> list[str]:
    """Names of the shipped profiles, and of those in a folder of one's own."""
    return sorted(_shipped(folder))


def load_profile(profile: str | Path | Profile | None, folder: Path | None = None) -> Profile:
    """Read a profile.

    Parameters
    ----------
    profile : str, path or Profile
        Name of a shipped one, or a TOML file whose entries are the parameters of :class:`Profile`.
        ``base = "NAME"`` begins from a shipped one.
    folder : path, optional
        Holds profiles for one kind of work, which are taken before shipped ones of the same name.

    Returns
    -------
    Profile

    Raises
    ------
    ClusterError
        If there is none of that name, or the file holds unknown or wrong entries.
    """
    if isinstance(profile, Profile):
        return profile
    shipped = _shipped(folder)
    names = ", ".join(sorted(shipped))
    if profile is None:
        raise ClusterError(f"SLURM jobs need a profile: one of {names}, or a TOML file of your own")
    path = shipped.get(str(profile), Path(profile))
    if not path.is_file():
        raise ClusterError(f"there is no profile {str(profile)!r}: choose one of {names}, or a file")
    entries = _read(path)
    base = entries.pop("base", None)
    if base is not None:
        if base not in shipped:
            raise ClusterError(f"{path}: base {base!r} is none of {names}")
        entries = _read(shipped[base]) | entries
    return _checked(entries, path)


def _shipped(folder: Path | None) -> dict[str, Path]:
    folders = [_SHIPPED, *([] if folder is None else [folder])]
    return {path.stem: path for each in folders for path in each.glob("*.toml")}


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ClusterError(f"{path} is not TOML: {error}") from error


def _checked(entries: dict[str, Any], path: Path) -> Profile:
    usual = {each.name: getattr(Profile(), each.name) for each in fields(Profile)}
    unknown = sorted(set(entries) - set(usual))
    if unknown:
        raise ClusterError(f"{path}: unknown entries {', '.join(unknown)}; known are {', '.join(usual)}")
    for name, value in entries.items():
        _check_entry(name, value, usual[name], path)
    texts = {name: tuple(value) for name, value in entries.items() if isinstance(value, list)}
    return Profile(**(entries | texts))


def _check_entry(name: str, value: Any, usual: Any, path: Path) -> None:
    if isinstance(usual, tuple):
        good, kind = isinstance(value, list) and all(isinstance(each, str) for each in value), "a list of texts"
    elif isinstance(usual, dict):
        good, kind = (
            isinstance(value, dict) and all(isinstance(each, str) for each in value.values()),
            "a table of texts",
        )
    elif isinstance(usual, bool):
        good, kind = isinstance(value, bool), "true or false"
    elif isinstance(usual, int):
        least = 0 if name in ("gpus", "cores") else 1
        good, kind = type(value) is int and value >= least, f"a whole number of at least {least}"
    else:
        good, kind = isinstance(value, str), "a text"
    if good and name == "memory":
        good, kind = _is_amount(value), "an amount such as '120GB'"
    if not good:
        raise ClusterError(f"{path}: {name} must be {kind}, not {value!r}")


def _is_amount(text: str) -> bool:
    from dask.utils import parse_bytes

    try:
        return parse_bytes(text) > 0
    except ValueError:
        return False
