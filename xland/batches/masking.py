"""Hiding part of the prior map, so that a model does not merely copy it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from xland.grid import expand

MASKED = 255
"""Code of a hidden pixel of the prior, and of a target pixel that does not count."""


def mask_prior(
    prior: NDArray[np.uint8], share: float, random: np.random.Generator, block: int = 1
) -> NDArray[np.uint8]:
    """Hide a share of the prior map, in single pixels or in square blocks.

    The published system hides 60 % of the pixels (arXiv 2606.11793).

    Parameters
    ----------
    prior : (rows, columns) array of class codes
    share : float
        Expected share of hidden cells, from 0 to 1.
    random : Generator
    block : int
        Cells along a hidden block.

    Returns
    -------
    (rows, columns) array of uint8
        A copy with 255 in hidden cells.
    """
    rows, columns = prior.shape
    drawn = random.random((-(-rows // block), -(-columns // block)), dtype=np.float32) < share
    hidden = expand(drawn, block)[:rows, :columns] if block > 1 else drawn
    return np.where(hidden, np.uint8(MASKED), prior)
