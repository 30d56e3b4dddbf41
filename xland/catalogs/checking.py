"""Comparing a catalog with its stores."""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xland.catalogs.entry import Entry, as_table, entry_of, metadata_of
from xland.catalogs.finding import file_digest, open_source, publisher_of, read_products
from xland.catalogs.rules import check_entry, for_intake_2, foreign
from xland.catalogs.yaml_files import CatalogFile, read_file, refresh_index
from xland.errors import CatalogError, XlandError
from xland.store.reading import read_finished, store_digest, verify
from xland.untrusted.folders import READERS

if TYPE_CHECKING:
    from xland.catalogs.catalog import Catalog

_COMPARED = ("years", "bounds", "variables", "classes", "crs")


@dataclass(frozen=True)
class Finding:
    """What was found of one entry; ``reason`` says more.

    The status is ``ok``, ``foreign`` (of another program), ``planned`` (without a store, but its metadata have a
    ``status``), or a fault: ``unsafe``, ``missing``, ``changed``, ``unread``.
    """

    name: str
    product: str
    status: str
    reason: str = ""


@dataclass(frozen=True)
class Checked:
    """What :func:`check` found; it prints as a table of what is not ``ok``, and the number of entries by status."""

    findings: tuple[Finding, ...]

    @property
    def faults(self) -> tuple[Finding, ...]:
        """Entries that are not as the catalog says."""
        return tuple(each for each in self.findings if each.status not in ("ok", "foreign", "planned"))

    @property
    def ok(self) -> bool:
        """Whether there is no fault."""
        return not self.faults

    def __str__(self) -> str:
        counts = Counter(each.status for each in self.findings)
        said = ", ".join(f"{number} {status}" for status, number in counts.items()) or "no entries"
        others = [each for each in self.findings if each.status != "ok"]
        rows = [[each.name, each.product, each.status, each.reason] for each in others]
        return "\n\n".join([*([as_table(["name", "product", "status", "reason"], rows)] if rows else []), said])

    __repr__ = __str__


def check(catalog: Catalog, *, deep: bool = False, progress: bool = True) -> Checked:
    """Compare a catalog with its stores, and bring its indexes up to date.

    Of each entry: that it is safe, that its store is there and complete, that the digest of the store is that which was
    published, that it has the variables of the entry, and that plain intake reads the same entry.

    Parameters
    ----------
    catalog : Catalog
        Catalog on this machine, or behind a URL.
    deep : bool
        Also read every file of the stores, compare years, area, classes and CRS with the entry, and open each entry
        with plain intake.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Checked
        It prints as a table; ``ok`` says whether there is no fault.

    Raises
    ------
    CatalogError
        If the catalog itself cannot be read, or its header is wrong.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn

    from xland.progress import Bar

    root = read_file(catalog.address)
    publisher_of(root)
    found, files = [], dict(read_products(root))
    columns = (TextColumn("checking"), BarColumn(), MofNCompleteColumn())
    # entries are opened one by one: HDF5 and plugins of intake do not know of threads
    with Bar(*columns, disable=not progress) as bar, ThreadPoolExecutor(1 if deep else READERS) as pool:
        task = bar.add_task("entries", total=sum(len(file.names) for file in files.values()))
        for product, file in files.items():
            plain = _plain_intake(file) if deep else None
            entries = [entry_of(name, file.sources[name], product) for name in file.names]
            statuses = pool.map(partial(_status, catalog, file, plain=plain), entries)
            for entry, (status, reason) in zip(entries, statuses, strict=True):
                found.append(Finding(entry.name, product, status, reason[:500]))
                bar.advance(task)
            if isinstance(file.address, Path):
                refresh_index(file.address)
    return Checked(tuple(found))


def _status(catalog: Catalog, file: CatalogFile, entry: Entry, plain: Any) -> tuple[str, str]:
    """Return the status of an entry, and why."""
    source = file.sources.get(entry.name)
    if source is not None and (reason := foreign(source)):
        return "foreign", reason
    schemes = catalog.allowed_schemes
    schemes = schemes if isinstance(file.address, Path) else (*schemes, file.address.partition("://")[0])
    try:
        target = check_entry(file.address, entry.name, source, schemes)
    except CatalogError as error:
        return "unsafe", str(error)
    if isinstance(target, Path) and not os.path.lexists(target):
        planned = entry.metadata.get("status")
        reason = f"there is no store at {target}: if it was moved, publish it from where it is now"
        return ("planned", str(planned)) if planned else ("missing", reason)
    try:
        reason = _compared(file, entry, target, deep=plain is not None)
        if not reason and plain is not None:
            reason = _deep(file, entry, source, target, schemes, plain)
    except (XlandError, OSError) as error:
        return "unread", str(error)
    return ("changed", reason) if reason else ("ok", "")


def _compared(file: CatalogFile, entry: Entry, target: Path | str, *, deep: bool) -> str:
    """Say what of a store is not as the entry says, from its metadata and table of digests; empty if all is."""
    known = (file.content.get("entries") or {}).get(entry.name)
    if file.content.get("version") == 2 and known != for_intake_2(entry.name, file.sources[entry.name]):
        return "its part in 'entries', which intake reads, differs from that in 'sources': publish any entry again"
    if entry.driver != "zarr":
        digest = file_digest(target) if deep and isinstance(target, Path) else None
        return _digests(entry, digest or entry.digest)
    root, table = read_finished(target)
    said = root.get("consolidated_metadata") if root else None
    there = set(said["metadata"]) if isinstance(said, dict) and isinstance(said.get("metadata"), dict) else set()
    lost = sorted(set(entry.variables) - there) if there else []
    return _digests(entry, None if table is None else table.digest) or (
        f"its store has no {', '.join(lost)}" if lost else ""
    )


def _digests(entry: Entry, digest: str | None) -> str:
    if entry.digest and entry.digest != digest:
        return f"its store was replaced: its digest is {str(digest)[:12]}, not {entry.digest[:12]}; publish it again"
    return ""


def _deep(
    file: CatalogFile, entry: Entry, source: Any, target: Path | str, schemes: tuple[str, ...], plain: Any
) -> str:
    """Say what is not as an entry says, or damaged, having read all of its store and opened it with intake."""
    if entry.driver == "zarr" and store_digest(target):
        verify(target)
    with open_source(file.address, entry.name, source, schemes) as ds:
        found = metadata_of(ds)
        differing = [key for key in _COMPARED if key in entry.metadata and entry.metadata[key] != found.get(key)]
        sizes = dict(ds.sizes)
    if differing:
        return f"{', '.join(differing)} of the store differ from those of the entry; publish it again"
    try:
        opened = plain[entry.name].to_dask()
        there = dict(opened.sizes)
        opened.close()
    except Exception as error:  # noqa: BLE001 - intake and its plugins have errors of their own
        return f"plain intake does not open it: {type(error).__name__}: {error}"
    return "" if there == sizes else f"plain intake opens it with {there}, not {sizes}"


def _plain_intake(file: CatalogFile) -> Any:
    """Open a file of a catalog, whose entries were read as plain data, with intake."""
    import intake

    return intake.open_catalog(str(file.address))
