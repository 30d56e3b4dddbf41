"""The named errors of xland.

Every message says which variable, where, how many cells and what to do. All errors are subclasses of
:class:`XlandError` and of :class:`ValueError`.
"""

from __future__ import annotations

from typing import ClassVar


class XlandError(ValueError):
    """Base class of every error that xland raises on purpose."""


class KeywordError(XlandError, TypeError):
    """A keyword that a function does not have; on the command line, an option."""


class VocabularyError(XlandError):
    """A code, class or state that no table knows."""


class GridError(XlandError):
    """Coordinates that are not a regular grid, or grids that do not nest."""


class RegionError(GridError):
    """A region that is empty or outside the data."""


class NothingToScoreError(RegionError):
    """Maps, masks and domains without any cell to score."""


class ForcingError(XlandError):
    """Coarse land-use states that would give a wrong map."""


class TimeError(ForcingError):
    """Duplicate, unsorted, missing or undecodable years."""


class StaticError(XlandError):
    """Static predictors that are missing or do not fit the model or the grid."""


class PriorError(XlandError):
    """A prior map with unknown codes or on another grid."""


class ClimateError(XlandError):
    """Monthly temperature and precipitation that would give a wrong season."""


class DatasetError(XlandError):
    """Reference data that cannot be fetched or fail verification."""


class ModelError(XlandError):
    """A model that does not exist, or does not fit the data or the outputs."""


class CheckpointError(ModelError):
    """A checkpoint that is truncated, altered, unsafe, of another shape or cannot be written."""


class CheckpointWarning(UserWarning):
    """A damaged checkpoint: the previous one is read."""


class StoreWarning(UserWarning):
    """Finished blocks of an incomplete store that were lost or damaged, and are written again."""


class OtherYearWarning(UserWarning):
    """A map is compared with the forcing of another year, the only one that was given."""


class UndefinedScoreWarning(UserWarning):
    """A score without a denominator, which is NaN: for example, nothing changes between two dates."""


class ConfigurationError(XlandError):
    """A training configuration, or a publisher's file, with unknown, missing or contradictory entries."""


class TrainingError(XlandError):
    """A training whose loss or gradient is not finite."""


class TrainingStoppedError(XlandError):
    """A training that was stopped by SIGTERM. Its state is written, and it can be resumed."""

    #: exit status of the process: 128 and the number of SIGTERM
    status: ClassVar[int] = 143


class AllocationError(XlandError):
    """Impossible coarse shares, or a crosswalk that leaves a class without a state."""


class StoreError(XlandError):
    """A store that exists already, is incomplete or belongs to other inputs."""


class AddressError(StoreError):
    """Text that is neither a path nor a URL, or a URL if only a local file is possible."""


class WorkerError(StoreError):
    """Workers that die repeatedly while they write a store, or no worker left. Finished blocks are kept."""


class CatalogError(XlandError):
    """A catalog entry that is unsafe, unknown or damaged."""


class ClusterError(XlandError):
    """Workers that cannot be started, reached or kept."""


class RequestError(XlandError):
    """A request to the service is too large, or its limits are out of range."""


class MissingDependencyError(XlandError, ImportError):
    """An optional package that is not installed; the message names it."""
