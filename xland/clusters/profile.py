"""What a SLURM job asks for: a file that names machine, memory and workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from xland.arguments import guess, shown
from xland.errors import ClusterError
from xland.paths import local_path
from xland.records import Limits, check_entries, read_record, read_toml

_LARGEST = 2**18
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
        Longest time of a job, ``hours:minutes:seconds``; a job that ends is submitted again.
    directives : sequence of str
        Further options of sbatch, such as ``--qos=debug``.
    workers : int
        Worker processes in a job.
    gpus : int
        GPUs of a job; each gets one worker of dask-cuda, whatever `workers` says.
    threads : int
        Threads of each worker: how many blocks it computes at once.
    cores : int
        Cores to ask for; by default one for each thread of each worker.
    memory : str
        Memory of a job, which its workers share, such as ``"120GB"``.
    ask_memory : bool
        Whether the job script requests memory. Some sites do not allow this.
    interface, host : str, optional
        Network interface (``ib0``) or address over which scheduler and workers talk; by default that of the host name.
    encrypted : bool
        Talk through TLS with keys of this run, in `folder`: no other user can send work to the workers.
    folder : str
        For job logs and keys, on a file system that all nodes see; below the working folder unless absolute.
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
    workers: Annotated[int, Limits(1, 10**6)] = 1
    gpus: Annotated[int, Limits(0, 10**4)] = 0
    threads: Annotated[int, Limits(1, 10**4)] = 1
    cores: Annotated[int, Limits(0, 10**6)] = 0
    memory: str = "4GB"
    ask_memory: bool = True
    interface: str = ""
    host: str = ""
    encrypted: bool = True
    folder: str = "slurm"
    local_directory: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    setup: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_entries(self, ClusterError)
        from dask.utils import parse_bytes

        try:
            sound = parse_bytes(self.memory) > 0
        except (ValueError, OverflowError):
            sound = False
        if not sound:
            raise ClusterError(f"memory must be an amount such as '120GB', not {shown(self.memory)}")

    @property
    def processes(self) -> int:
        """Workers in a job, also where they are one for each GPU."""
        return self.gpus or self.workers

    def jobs(self, workers: int | None) -> int:
        """How many jobs hold so many workers; one by default."""
        return 1 if workers is None else -(-workers // self.processes)


def list_profiles() -> list[str]:
    """Names of the shipped profiles."""
    return sorted(_profiles_in(_SHIPPED))


def _profiles_in(*folders: Path) -> dict[str, Path]:
    """Profiles by name, those of later folders in place of earlier ones."""
    return {path.stem: path for folder in folders for path in folder.glob("*.toml")}


def load_profile(profile: str | Path | Profile | None, folder: Path | None = None) -> Profile:
    """Read a profile.

    Parameters
    ----------
    profile : str, path or Profile
        Name of a shipped one, or a TOML file whose entries are the parameters of :class:`Profile`.
        ``base = "NAME"`` begins from a shipped one.
    folder : path, optional
        With profiles for one kind of work, which are taken before shipped ones of the same name.

    Raises
    ------
    ClusterError
        If there is none of that name, or the file has unknown or wrong entries.
    """
    if isinstance(profile, Profile):
        return profile
    shipped = _profiles_in(_SHIPPED, *([] if folder is None else [folder]))
    names = ", ".join(sorted(shipped))
    if profile is None:
        raise ClusterError(f"SLURM jobs need a profile: one of {names}, or a TOML file of your own")
    path = shipped.get(str(profile)) or local_path(profile, what="a profile")
    if not path.exists():
        raise ClusterError(
            f"there is no profile {str(profile)!r}{guess(profile, shipped) or '.'} Choose one of {names}, or a file"
        )
    entries = read_toml(path, _LARGEST, ClusterError)
    base = entries.pop("base", None)
    if base is not None:
        if not isinstance(base, str) or base not in shipped:
            raise ClusterError(f"{path}: base {shown(base)} is none of {names}")
        entries = read_toml(shipped[base], _LARGEST, ClusterError) | entries
    return read_record(Profile, entries, str(path), ClusterError)
