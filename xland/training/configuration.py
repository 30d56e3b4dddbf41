"""The configuration of a training: a TOML file that anyone can run with ``xland train``."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

from xland.batches.loader import Augmentation
from xland.errors import ConfigurationError, XlandError
from xland.inputs import InputSpec
from xland.models.unet import Architecture
from xland.training.objective import Objective
from xland.training.rollout import Rollout

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Precision = Literal["float32", "bfloat16"]

_AT_LEAST_ONE = (
    *("epochs", "batch", "accumulate", "patch", "patch_stride", "candidates", "validate_every", "report_every"),
    "locality",
)
_CONFIGS = Path(__file__).parent / "configs"
T = TypeVar("T", bound="DataclassInstance")


@dataclass(frozen=True)
class Data:
    """Where the training data come from.

    Parameters
    ----------
    forcing : str
        Path of a coarse Dataset (NetCDF or Zarr), or ``class-fractions``: the class shares of the
        target itself on the coarse grid.
    target : str
        Path of a map of class codes (NetCDF or Zarr), or ``modis-2019``.
    static : str
        Path of a Dataset on the fine grid, or ``default``: the predictors of `xland.datasets`.
    forcing_years, target_years : tuple of int
        Years of forcing and target that belong together, in this order.
    train_years, test_years : (first, last) year
        Maps of years from first to last are learned from, or kept for the test; as in the published
        system, (1960, 2000) and (2001, 2015). Without them all paired years are learned from.
    southern_limit : float
        Degrees north; what lies south of it takes no part.
    """

    forcing: str
    target: str = "modis-2019"
    static: str = "default"
    forcing_years: tuple[int, ...] = ()
    target_years: tuple[int, ...] = ()
    train_years: tuple[int, int] | tuple[()] = ()
    test_years: tuple[int, int] | tuple[()] = ()
    southern_limit: float = -60.0

    def __post_init__(self) -> None:
        if bool(self.train_years) != bool(self.test_years) or not {len(self.train_years), len(self.test_years)} <= {
            0,
            2,
        }:
            raise ConfigurationError("train_years and test_years belong together: give the first and last year of both")


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to learn.

    Parameters
    ----------
    epochs, batch : int
        Passes over the patches, and patches a step, of all ranks together.
    accumulate : int
        Parts into which each rank cuts its patches of a step, one after the other in memory.
    patch, patch_stride : int
        Cells along a patch, and from one candidate to the next.
    candidates : int
        Patches to learn from, chosen by farthest point sampling among those with training pixels.
    samples : int
        Patches an epoch, drawn as often as they hold training pixels; 0 takes each candidate once.
    rare_classes : float
        How much more often patches with rare classes are drawn, from 0 (not) to 1; see
        :func:`xland.batches.sampling.rare_class_weights`.
    points : int
        Pixels of each patch that enter the loss, drawn at random; 0 takes all.
    learning_rate, weight_decay : float
        Peak rate of a one-cycle schedule, and decay of AdamW.
    warmup : float
        Share of all steps in which the rate rises.
    averaging : float
        Decay of the moving average of the weights that is validated and kept; 0 for none.
    validate_every : int
        Epochs between validations.
    gradient_clip : float
        Largest norm of the gradient.
    seed : int
        Seed of weights, order and augmentation.
    workers : int
        Loader processes of each rank; 0 loads in the training process.
    locality : int
        Chunks of a training store whose patches are mixed with each other before those of the next
        chunks come. More mixes better, less reads less.
    common_statistics : bool
        Let batch normalisation see the samples of all ranks, so that one process and several learn the same.
        Without, each rank has the statistics of its own share, as in plain data-parallel training: the ranks wait
        for each other only once a step.
    precision : {"float32", "bfloat16"}
        ``bfloat16`` computes convolutions in half precision (autocast); weights stay in single.
    channels_last : bool
        Keep the channels of a pixel together in memory, which GPUs like.
    compile : bool
        Let ``torch.compile`` fuse the network; the first steps take minutes.
    checkpoint_every : int
        Steps between two writings of the state, from which a training resumes; 0 writes it after each
        epoch only. It is also written when the process is asked to end (SIGTERM).
    report_every : int
        Steps between two readings of the loss. Each makes the training wait for its device; on a CPU
        that costs nothing. A loss that is not finite is found when it is read.
    """

    epochs: int = 20
    batch: int = 8
    accumulate: int = 1
    patch: int = 160
    patch_stride: int = 80
    candidates: int = 8000
    samples: int = 0
    rare_classes: float = 0.0
    points: int = 0
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    warmup: float = 0.1
    averaging: float = 0.99
    validate_every: int = 1
    gradient_clip: float = 2.0
    seed: int = 0
    workers: int = 0
    locality: int = 64
    common_statistics: bool = True
    precision: Precision = "float32"
    channels_last: bool = False
    compile: bool = False
    checkpoint_every: int = 0
    report_every: int = 1

    def __post_init__(self) -> None:
        for name in _AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("samples", "points", "workers", "checkpoint_every", "weight_decay"):
            if getattr(self, name) < 0:
                raise ConfigurationError(f"{name} must not be below 0, but is {getattr(self, name)}")
        for name in ("learning_rate", "gradient_clip"):
            if not getattr(self, name) > 0:
                raise ConfigurationError(f"{name} must be above 0, not {getattr(self, name)}")
        for name in ("warmup", "averaging"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigurationError(f"{name} must be from 0 to below 1, not {getattr(self, name)}")
        if not 0 <= self.rare_classes <= 1:
            raise ConfigurationError(f"rare_classes must be from 0 to 1, not {self.rare_classes}")
        if self.precision not in get_args(Precision):
            raise ConfigurationError(
                f"precision must be one of {', '.join(get_args(Precision))}, not {self.precision!r}"
            )


@dataclass(frozen=True)
class Configuration:
    """Everything that fixes a training."""

    name: str
    title: str
    data: Data
    inputs: InputSpec
    architecture: Architecture = field(default_factory=Architecture)
    objective: Objective = field(default_factory=Objective)
    augmentation: Augmentation = field(default_factory=Augmentation)
    schedule: Schedule = field(default_factory=Schedule)
    rollout: Rollout = field(default_factory=Rollout)
    split_seed: int = 0
    licence: str = "Apache-2.0"
    notes: str = ""

    def __post_init__(self) -> None:
        schedule, factor = self.schedule, self.inputs.factor
        if self.rollout.years > 1 and self.inputs.prior == "none":
            raise ConfigurationError("rollouts of several years need inputs with a prior map, which one year hands on")
        if schedule.patch_stride % factor:
            raise ConfigurationError(f"patch_stride {schedule.patch_stride} must be a multiple of factor {factor}")
        if schedule.patch_stride > schedule.patch:
            raise ConfigurationError(
                f"patch_stride {schedule.patch_stride} leaves gaps between patches of {schedule.patch}"
            )
        if self.architecture.kind == "context" and schedule.patch % factor:
            raise ConfigurationError(
                f"patch {schedule.patch} must be a multiple of factor {factor} for the architecture 'context'"
            )
        cells = self.architecture.cells(schedule.patch, factor)
        if cells % 2**self.architecture.depth:
            raise ConfigurationError(
                f"patches of {cells} cells cannot be halved {self.architecture.depth} times: "
                f"choose a multiple of {2**self.architecture.depth}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for the model card."""
        return asdict(self)


def list_configurations() -> tuple[str, ...]:
    """Names of the configurations that ship with the package."""
    return tuple(sorted(path.stem for path in _CONFIGS.glob("*.toml")))


def read_configuration(source: str | Path) -> Configuration:
    """Read a configuration by the name of a shipped one, or by its path.

    Raises
    ------
    ConfigurationError
        If it does not exist, is not TOML, or has unknown, missing or wrong entries.
    """
    path = _CONFIGS / f"{source}.toml" if str(source) in list_configurations() else Path(source)
    if not path.is_file():
        raise ConfigurationError(
            f"there is no configuration {str(source)!r}: give a TOML file or one of {', '.join(list_configurations())}"
        )
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}") from error
    return parse_configuration(values, str(path))


def parse_configuration(values: Mapping[str, Any], where: str = "configuration") -> Configuration:
    """Build a configuration from the plain values of a TOML file."""
    sections = {
        "data": Data,
        "architecture": Architecture,
        "objective": Objective,
        "augmentation": Augmentation,
        "schedule": Schedule,
        "rollout": Rollout,
    }
    entries = dict(values)
    for name in ("name", "title", "data", "inputs"):
        if name not in entries:
            raise ConfigurationError(f"{where}: {name!r} is missing")
    for name, section in sections.items():
        if name in entries:
            entries[name] = _section(section, entries[name], f"{where}, [{name}]")
    try:
        entries["inputs"] = InputSpec.from_dict(entries["inputs"])
    except XlandError as error:
        raise ConfigurationError(f"{where}: {error}") from error
    return _section(Configuration, entries, where)


def _section(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    unknown = sorted(set(values) - {f.name for f in fields(kind)})
    if unknown:
        raise ConfigurationError(f"{where}: unknown entries {', '.join(unknown)}")
    frozen = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    try:
        return kind(**frozen)
    except (TypeError, XlandError) as error:
        raise ConfigurationError(f"{where}: {error}") from error
