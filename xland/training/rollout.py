"""Learning over several years at once, so that a network meets its own maps before it is used.

In use, the map that a network makes of one year is what it reads for the next (a free rollout), and its errors come
back to it. Here it reads, with a probability that rises while it learns, its own map in place of the true one:
scheduled sampling (Bengio et al. 2015, arXiv 1506.03099).

Own maps are made and read as in use: the most probable class, without a gradient. A sample reads its own map as a whole
or not at all, because errors lie together; and it may do so in one year after the other, so that errors build up.

What was hidden of the prior map stays hidden in the map that is made from it. The classes that a network had to guess
there are worse than those that it finds in use, and it would learn to distrust its own maps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from xland.errors import ConfigurationError
from xland.models.inputs import MASKED
from xland.records import Limits, Share, check_entries
from xland.vocabulary import OCEAN


@dataclass(frozen=True)
class Rollout:
    """How many years are learned at once, and how often the network reads its own maps.

    Parameters
    ----------
    years : int
        Maps that follow each other in a sample; 1 learns each map alone.
    own_maps : float
        Probability that the network reads its own map of the adjacent year in place of the true one,
        from the second map of a sample on: 0 at first, then rising in a line between 10 and 60 % of the
        training to this value (scheduled sampling).
    """

    years: Annotated[int, Limits(1, 1000)] = 1
    own_maps: Share = 0.0

    def __post_init__(self) -> None:
        check_entries(self, ConfigurationError)
        if self.own_maps and self.years == 1:
            raise ConfigurationError(
                f"rollout: with own_maps {self.own_maps:g} a sample needs more than one year, because the first reads "
                "the true map: set years to 2 or more"
            )


def sampling_share(done: float, peak: float) -> float:
    """Probability of own maps when a share of all steps is done: 0, a linear rise from 10 to 60 %, then the peak."""
    return peak * min(max((done - 0.1) / 0.5, 0.0), 1.0)


def unroll(
    network: Callable[..., Tensor],
    samples: Mapping[str, Tensor],
    own_share: float,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the scores of all years of a batch, the network reading some of its own maps.

    Parameters
    ----------
    network : callable
        A :class:`~xland.models.networks.unet.DownscalingNetwork`, in training or evaluation mode, as it is.
    samples : dict of Tensor
        ``coarse`` (batch, years, channels, coarse rows, coarse columns), ``static`` (batch, channels, rows,
        columns) and ``prior`` (batch, years, rows, columns): the true map that adjoins each year, 255
        where it is hidden; with a history (batch, years, maps, rows, columns), whose further maps are always true.
        Years stand in the order of the rollout: the map of each is the prior of the
        next. If need be, ``corner`` (batch, 2) as :meth:`xland.models.networks.unet.DownscalingNetwork.forward` reads
        it, and ``points`` (batch, years, n), flat indices of the only pixels whose scores are wanted.
    own_share : float
        Probability that a sample reads its own map, drawn for each sample and year but the first.
    generator : Generator, optional
        Of the draws, on the CPU; else torch's own.

    Returns
    -------
    (batch, years, classes, rows, columns) tensor, or (batch, years, classes, n) for points
    """
    coarse, static, true = samples["coarse"], samples["static"], samples["prior"]
    batch, years = coarse.shape[:2]
    points, corner = samples.get("points"), samples.get("corner")
    newest = true if true.ndim == 4 else true[:, :, 0]
    sea = (newest == OCEAN).any(dim=1)
    # on the CPU, so that nothing waits for the device
    own = torch.rand((years, batch), generator=generator) < own_share
    if true.is_cuda:
        own = own.pin_memory().to(true.device, non_blocking=True)
    scores: list[Tensor] = []
    prior = true[:, 0]
    for year in range(years):
        read = coarse[:, year], static, prior
        scores.append(network(*read, None if points is None else points[:, year], corner))
        if year + 1 < years:
            following = true[:, year + 1]
            if own_share > 0:  # not own.any(): processes that share batch statistics must make the same calls
                with torch.no_grad():
                    whole = scores[-1] if points is None else network(*read, None, corner)
                    found = whole.argmax(dim=1).to(prior.dtype).masked_fill(sea, OCEAN)
                hidden = (prior if prior.ndim == 3 else prior[:, 0]) == MASKED
                found = found.masked_fill(hidden, MASKED)  # what is hidden stays hidden
                if following.ndim == 4:
                    found = torch.cat([found[:, None], following[:, 1:]], dim=1)
                chosen = own[year + 1].to(following.device).reshape(-1, *[1] * (following.ndim - 1))
                following = torch.where(chosen, found, following)
            prior = following
    return torch.stack(scores, dim=1)
