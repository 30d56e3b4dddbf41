"""The named errors of xland.

Every message says which variable, where, how many cells are concerned and what to do about it.
All are subclasses of :class:`XlandError` and of :class:`ValueError`, so that callers who only
know the standard library can catch them too.
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
    """Maps, masks and domains that leave no cell to score."""


class ForcingError(XlandError):
    """Coarse land-use states that would give a wrong map."""


class TimeError(ForcingError):
    """Duplicate, unsorted, missing or undecodable years."""


class StaticError(XlandError):
    """Static predictors that are missing or do not fit the model or the grid."""


class PriorError(XlandError):
    """A prior map with unknown codes or on another grid."""


class DatasetError(XlandError):
    """Reference data that cannot be fetched or fail verification."""


class ModelError(XlandError):
    """A model that does not exist or does not fit what it is asked for."""


class CheckpointError(ModelError):
    """A checkpoint that is truncated, altered, unsafe, of another shape or cannot be written."""


class CheckpointWarning(UserWarning):
    """A damaged checkpoint, in place of which the one before it is read."""


class StoreWarning(UserWarning):
    """Finished blocks of a growing store that were lost or damaged, and are written again."""


class OtherYearWarning(UserWarning):
    """A map is compared with the forcing of another year, the only one that was given."""


class UndefinedScoreWarning(UserWarning):
    """Maps on which a score has no denominator, and is NaN: nothing changes between two dates."""


class ConfigurationError(XlandError):
    """A training configuration with unknown, missing or contradictory entries."""


class TrainingError(XlandError):
    """A training whose loss or gradient is not a finite number any more."""


class TrainingStoppedError(XlandError):
    """A training that was asked to end (SIGTERM): its state is written, and it can be resumed."""

    #: exit status for a process that ends with it: 128 and the number of SIGTERM, as shells have it
    status: ClassVar[int] = 143


class AllocationError(XlandError):
    """Coarse shares that no map can have, or a crosswalk that leaves a class without a state."""


class StoreError(XlandError):
    """A store that exists already, is incomplete or belongs to other inputs."""


class AddressError(StoreError):
    """What is neither a path nor a URL, or a URL where only a file on this machine will do."""


class WorkerError(StoreError):
    """Workers that died again and again while a store was written, or none that was left; finished blocks are kept."""


class CatalogError(XlandError):
    """A catalog entry that is unsafe, unknown or damaged."""


class ClusterError(XlandError):
    """Workers that cannot be started, reached or kept."""


class MissingDependencyError(XlandError, ImportError):
    """An optional package is needed; the message names the extra that brings it."""
