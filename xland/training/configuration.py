"""The configuration of a training: a TOML file that anyone can run with ``xland train``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from xland.arguments import guess
from xland.errors import ConfigurationError
from xland.models.inputs import InputSpec, Name
from xland.models.networks.architecture import Architecture
from xland.paths import local_path
from xland.records import Limits, Positive, Share, check_entries, read_record, read_toml
from xland.training.objective import Objective
from xland.training.rollout import Rollout

Precision = Literal["float32", "bfloat16"]
Count = Annotated[int, Limits(1, 10**9)]
CountOrNone = Annotated[int, Limits(0, 10**9)]
Years = Annotated[tuple[Annotated[int, Limits(-10_000, 10_000)], ...], Limits(most=10_000)]
Ends = tuple[int, int] | tuple[()]
Seed = Annotated[int, Limits(0, 2**63 - 1)]

_CONFIGS = Path(__file__).parent / "configs"
_LARGEST = 2**18


@dataclass(frozen=True)
class Data:
    """Where the training data come from.

    Parameters
    ----------
    forcing : str
        Path of a coarse Dataset (NetCDF or Zarr); or ``luh2-2015``, :func:`xland.datasets.luh2_2015`; or
        ``class-fractions``, the class shares of the target itself on the coarse grid.
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
    forcing_years: Years = ()
    target_years: Years = ()
    train_years: Ends = ()
    test_years: Ends = ()
    southern_limit: Annotated[float, Limits(-90, 90)] = -60.0

    def __post_init__(self) -> None:
        check_entries(self, ConfigurationError)
        if bool(self.train_years) != bool(self.test_years):
            raise ConfigurationError("train_years and test_years belong together: give the first and last year of both")


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training patch.

    Parameters
    ----------
    flip : bool
        Mirror east and west.
    flip_north_south : bool
        Mirror north and south too (``cos_aspect`` would change its sign; leave it out then).
    coarse_noise : float
        Standard deviation of the noise added to each normalised coarse channel, one value a patch.
    channel_dropout : float
        Share of coarse and static channels set to 0, their mean, a patch.
    prior_masked : float
        Share of the prior that is masked.
    prior_block : int
        Size in pixels of the masked blocks.
    prior_dropped : float
        Share of samples whose whole prior is masked, so that a model can begin without one.
    history_dropped : float
        Share of samples whose maps beyond the prior map are masked, so that a model can do without them.
    """

    flip: bool = True
    flip_north_south: bool = False
    coarse_noise: Annotated[float, Limits(0)] = 0.0
    channel_dropout: Share = 0.0
    prior_masked: Share = 0.6
    prior_block: Annotated[int, Limits(1, 2**14)] = 1
    prior_dropped: Share = 0.0
    history_dropped: Share = 0.0

    def __post_init__(self) -> None:
        check_entries(self, ConfigurationError)


NO_AUGMENTATION = Augmentation(flip=False, prior_masked=0.0)


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
        Patches per epoch. The probability of a patch is proportional to its number of training pixels. 0 takes each
        candidate once.
    sampling : str
        How patches are weighed where they are drawn: a name in :data:`xland.training.data.sampling.SAMPLING_RULES`.
    rare_classes : float
        How much more often patches with rare classes are drawn, from 0 (not) to 1; see
        :func:`xland.training.data.sampling.rare_class_weights`.
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
        Chunks of a training store whose patches are mixed at a time. A larger number mixes better, a smaller one reads
        fewer chunks.
    common_statistics : bool
        Let batch normalisation see the samples of all ranks, so that one process and several learn the same.
        Without, each rank uses its own share, and ranks wait for each other only once a step.
    precision : {"float32", "bfloat16"}
        ``bfloat16`` computes convolutions in half precision (autocast); weights stay in single.
    channels_last : bool
        Keep the channels of a pixel together in memory, which is faster on GPUs.
    compile : bool
        Let ``torch.compile`` fuse the network; the first steps take minutes.
    checkpoint_every : int
        Steps between two writings of the state, from which a training resumes; 0 for each epoch only. It is also
        written when the process is asked to end (SIGTERM).
    report_every : int
        Steps between two readings of the loss, for which the training waits for its device (no cost on a CPU).
        A loss that is not finite is found when it is read.
    """

    epochs: Count = 20
    batch: Count = 8
    accumulate: Count = 1
    patch: Annotated[int, Limits(1, 2**14)] = 160
    patch_stride: Annotated[int, Limits(1, 2**14)] = 80
    candidates: Count = 8000
    samples: CountOrNone = 0
    sampling: Name = "rare_classes"
    rare_classes: Share = 0.0
    points: CountOrNone = 0
    learning_rate: Positive = 2e-3
    weight_decay: Annotated[float, Limits(0)] = 0.02
    warmup: Annotated[float, Limits(0, below=1)] = 0.1
    averaging: Annotated[float, Limits(0, below=1)] = 0.99
    validate_every: Count = 1
    gradient_clip: Positive = 2.0
    seed: Seed = 0
    workers: Annotated[int, Limits(0, 1000)] = 0
    locality: Count = 64
    common_statistics: bool = True
    precision: Precision = "float32"
    channels_last: bool = False
    compile: bool = False
    checkpoint_every: CountOrNone = 0
    report_every: Count = 1

    def __post_init__(self) -> None:
        check_entries(self, ConfigurationError)


@dataclass(frozen=True)
class Configuration:
    """Everything that fixes a training.

    Parameters
    ----------
    name, title, notes : str
        Of the model: a short name, a line, and what its users must know.
    split_seed : int
        Which cells of the globe are learned from, and which are kept for validation and test.
    licence : str
        SPDX name of the licence of the model.
    """

    name: Name
    title: str
    data: Data
    inputs: InputSpec
    architecture: Architecture = field(default_factory=Architecture)
    objective: Objective = field(default_factory=Objective)
    augmentation: Augmentation = field(default_factory=Augmentation)
    schedule: Schedule = field(default_factory=Schedule)
    rollout: Rollout = field(default_factory=Rollout)
    split_seed: Seed = 0
    licence: str = "Apache-2.0"
    notes: str = ""

    def __post_init__(self) -> None:
        check_entries(self, ConfigurationError)
        schedule, factor = self.schedule, self.inputs.factor
        if self.augmentation.history_dropped and not self.inputs.history:
            raise ConfigurationError("history_dropped is for inputs with a history: set it there, or leave it out")
        if self.rollout.years > 1 and self.inputs.prior == "none":
            raise ConfigurationError("rollouts of several years need inputs with a prior map, which one year hands on")
        if schedule.patch_stride % factor:
            raise ConfigurationError(f"patch_stride {schedule.patch_stride} must be a multiple of factor {factor}")
        if schedule.patch_stride > schedule.patch:
            raise ConfigurationError(
                f"patch_stride {schedule.patch_stride} leaves gaps between patches of {schedule.patch}"
            )
        kind, depth = self.architecture.kind, self.architecture.depth
        if self.architecture.pixelwise and schedule.patch % factor:
            raise ConfigurationError(
                f"patch {schedule.patch} must be a multiple of factor {factor} for the architecture {kind!r}"
            )
        cells = self.architecture.cells(schedule.patch, factor)
        if cells % 2**depth:
            raise ConfigurationError(
                f"patches of {cells} cells cannot be halved {depth} times: choose a multiple of {2**depth}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for the model card."""
        return asdict(self)


def list_configurations() -> tuple[str, ...]:
    """Names of the configurations that ship with the package."""
    return tuple(sorted(path.stem for path in _CONFIGS.glob("*.toml")))


def read_configuration(source: str | Path) -> Configuration:
    """Read a configuration by the name of a shipped one, or by its path; a ConfigurationError says what is wrong."""
    values, path = read_values(source)
    return parse_configuration(values, str(path))


def read_values(source: str | Path) -> tuple[dict[str, Any], Path]:
    """Return the plain values of a configuration, which may be wrong, and its path."""
    known = list_configurations()
    path = _CONFIGS / f"{source}.toml" if str(source) in known else local_path(source, what="a configuration")
    if not path.exists():
        raise ConfigurationError(
            f"there is no configuration {str(source)!r}{guess(source, known) or '.'} Give a TOML file or one of "
            f"{', '.join(known)}"
        )
    return read_toml(path, _LARGEST, ConfigurationError), path


def parse_configuration(values: Any, where: str = "configuration") -> Configuration:
    """Build a configuration from the plain values of a TOML file.

    A ConfigurationError names section and entry that are unknown, missing or wrong, what it must be and what it is.
    """
    return read_record(Configuration, values, where, ConfigurationError)
