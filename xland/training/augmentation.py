"""Random changes of the patches from which a network learns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from xland.errors import ConfigurationError
from xland.records import Limits, Share, check_entries


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
        Share of the prior that is hidden.
    prior_block : int
        Size in pixels of the hidden blocks.
    prior_dropped : float
        Share of samples whose whole prior is hidden, so that a model can begin without one.
    """

    flip: bool = True
    flip_north_south: bool = False
    coarse_noise: Annotated[float, Limits(0)] = 0.0
    channel_dropout: Share = 0.0
    prior_masked: Share = 0.6
    prior_block: Annotated[int, Limits(1, 2**14)] = 1
    prior_dropped: Share = 0.0

    def __post_init__(self) -> None:
        check_entries(self, ConfigurationError)


NO_AUGMENTATION = Augmentation(flip=False, prior_masked=0.0)
