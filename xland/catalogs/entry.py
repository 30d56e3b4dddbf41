"""What an entry of a catalog says of its store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Entry:
    """One entry of a catalog; what it does not say is empty.

    Parameters
    ----------
    name : str
        Name in the catalog; of a superseded version ``NAME@1``.
    store : str
        Where its store lies: relative to the folder of the catalog, or a URL.
    driver : str
        ``zarr`` or ``netcdf``; another one is foreign.
    version : int
        Number of the version, from 1.
    title, description : str
        A line each.
    product : str
        Sub-catalog that it is in; empty if it is in the catalog itself.
    years : tuple of int
        Calendar years, in ascending order.
    bounds : tuple of float, optional
        West, south, east, north edge in degrees; east may be beyond 180.
    variables : tuple of str
        Names of the variables.
    model, scenario : str
        Which model made it, and from which scenario.
    licence : str
        SPDX expression, or URL, or the licences of the inputs in words.
    doi : str
        Without a URL.
    digest : str
        SHA-256 of the store.
    report, preview : str
        A page and a picture, relative to the folder of the catalog.
    superseded_by : str
        Name of the entry that replaced it; empty for the latest version.
    foreign : str
        Why xland cannot open it; empty if it can.
    metadata : mapping
        All that the catalog says of it.
    """

    name: str
    store: str
    driver: str = "zarr"
    version: int = 1
    title: str = ""
    description: str = ""
    product: str = ""
    years: tuple[int, ...] = ()
    bounds: tuple[float, float, float, float] | None = None
    variables: tuple[str, ...] = ()
    model: str = ""
    scenario: str = ""
    licence: str = ""
    doi: str = ""
    digest: str = ""
    report: str = ""
    preview: str = ""
    superseded_by: str = ""
    foreign: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict, repr=False)
