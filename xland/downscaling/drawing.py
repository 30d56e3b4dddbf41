"""Maps that are drawn from the probabilities of a block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from xland.draws.octaves import Grain

if TYPE_CHECKING:
    from torch import Tensor

    from xland.downscaling.keeping import Fit


@dataclass(frozen=True)
class Drawing:
    """How many maps are drawn, and how: with what grain, from which seed, on a globe of how many columns."""

    count: int
    seed: int
    grain: Grain
    around: int

    def maps(
        self,
        probability: Tensor,
        land: NDArray[np.bool_],
        rows: range,
        columns: range,
        at: slice,
        fit: Fit | None,
    ) -> NDArray[np.uint8]:
        """Draw all maps of some rows of a block, ``(draws, rows, columns)``.

        `rows` and `columns` count on the globe, and `at` says which rows of the block they are. `fit` chooses a map
        that keeps coarse totals: it then chooses each draw.
        """
        # compiled code, which takes a second to load, only where maps are drawn
        from xland.draws.gumbel import Place, draw_classes, perturb

        place, values = Place(rows, columns, self.around), probability.cpu().numpy()
        found = np.zeros((self.count, *land.shape), dtype=np.uint8)
        for number, codes in enumerate(found):
            if fit is None:
                codes[...] = draw_classes(values, land, place, self.grain, self.seed, number)
                continue
            perturbed = perturb(values, land, place, self.grain, self.seed, number)
            _, chosen, _ = fit(probability.new_tensor(perturbed), at, land, ())
            if chosen is not None:
                codes[...] = chosen.cpu().numpy()
        return found
