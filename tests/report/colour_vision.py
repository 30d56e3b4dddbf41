"""How colours look to people who see no red, green or blue, and how far apart they are."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

VISION = {
    "full": np.eye(3),
    "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "no blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
"""Linear RGB of what is seen (Machado et al. 2009, doi 10.1109/TVCG.2009.113, full severity)."""

_XYZ = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
_WHITE = [0.95047, 1.0, 1.08883]


def seen(color: str, vision: str) -> np.ndarray:
    """Return a colour as it is seen: CIELAB (L, a, b)."""
    value = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    xyz = np.array(_XYZ) @ np.clip(np.array(VISION[vision]) @ linear, 0, 1) / _WHITE
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def nearest(colors: Sequence[str], vision: str) -> float:
    """Return the smallest distance between any two of the colours, in CIELAB units."""
    return min(float(np.linalg.norm(seen(a, vision) - seen(b, vision))) for a, b in combinations(colors, 2))
