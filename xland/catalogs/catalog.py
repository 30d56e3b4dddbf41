"""A catalog as an object: what it lists, and what is done with it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xland.catalogs.entry import Entry, entry_of, version_of
from xland.catalogs.finding import find_entry, read_products
from xland.catalogs.rules import check_entry, check_name, split_name
from xland.catalogs.view import CatalogView
from xland.catalogs.yaml_files import Content, change_file, changing, lock, read_file
from xland.errors import CatalogError, XlandError

if TYPE_CHECKING:
    from xland.catalogs.checking import Checked


class Catalog(CatalogView):
    """An intake catalog on this machine, or behind a URL to read.

    Parameters
    ----------
    address : path or URL
        YAML file; it need not exist before the first publication.
    allowed_schemes : collection of str
        URL schemes (such as ``https``) that entries may point to. Entries of a catalog behind a URL may lie beside it.
    """

    def publish(self, *, name: str, store: str | os.PathLike[str] | None = None, **options: Any) -> Path:
        """Enter a store; see :func:`xland.publish`."""
        from xland.catalogs.publishing import publish

        return publish(self.path, name=name, store=store, **options)

    def rename(self, name: str, to: str) -> Entry:
        """Rename an entry with all its versions; stores stay where they are.

        Parameters
        ----------
        name : str
            Name of the entry.
        to : str
            Its new name.

        Raises
        ------
        CatalogError
            If there is no such entry, or one of the new name.
        """
        check_name(to)

        def edit(sources: Content) -> Content:
            return {names.get(key, key): _renamed(each, names) for key, each in sources.items()}

        with changing(self.path) as root:
            _, file, key = find_entry(_there(root, self.path), name)
            if key != split_name(key)[0]:
                raise CatalogError(f"{key} is a version: rename {split_name(key)[0]!r}, with all its versions")
            if any(to in {*each.names, *each.products} for _, each in read_products(_there(root, self.path))):
                raise CatalogError(f"{self.path} has an entry {to!r} already: remove it, or choose another name")
            names = {each: to + each[len(key) :] for each in file.names if split_name(str(each))[0] == key}
            self._change(file.address, edit, {new: old for old, new in names.items()})
            self._follow([key, to])
        return self.show(to)

    def remove(self, name: str, *, stores: bool = False) -> Sequence[str]:
        """Take out an entry with all its versions, or one version (``NAME@2``); of the others, the last is the latest.

        Parameters
        ----------
        name : str
            Name of the entry.
        stores : bool
            Delete its stores, too.

        Returns
        -------
        sequence of str
            Names that were taken out.

        Raises
        ------
        CatalogError
            If there is no such entry, or a store that would be deleted is also that of another entry, in this catalog
            or in another one in the folder.
        """
        with changing(self.path) as root:
            _, file, key = find_entry(_there(root, self.path), name)
            base, version = split_name(name)
            gone = [each for each in file.names if split_name(str(each))[0] == base] if not version else [key]
            entries = [entry_of(each, file.sources[each]) for each in gone]
            targets = [self._unshared(each, gone) for each in entries] if stores else []
            self._change(file.address, lambda sources: _without(sources, gone))
            for target in targets:
                shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
            for each in entries:
                picture = self.folder / each.preview
                if picture.parent == self.path.with_name(f"{self.path.stem}-previews"):
                    picture.unlink(missing_ok=True)
            self._follow(gone)
        return gone

    def check(self, *, deep: bool = False, progress: bool = True) -> Checked:
        """Compare the catalog with its stores; see :func:`xland.catalogs.checking.check`."""
        from xland.catalogs.checking import check

        return check(self, deep=deep, progress=progress)

    def _follow(self, changed: Sequence[str]) -> None:
        from xland.catalogs.publishing import follow

        follow(self.path, changed)

    def _change(self, file: Any, edit: Callable[[Content], Content], renamed: Mapping[str, str] | None = None) -> None:
        if file == self.path:
            change_file(file, edit, renamed=renamed)
            return
        with lock(file):
            change_file(file, edit, renamed=renamed)

    def _unshared(self, entry: Entry, gone: Collection[str]) -> Path:
        """Return the store of an entry, which is to be deleted; CatalogError if another entry has it, too."""
        target = self.folder / entry.store
        source = {"driver": entry.driver, "args": {"urlpath": entry.store}}
        if not isinstance(check_entry(self.path, entry.name, source, ()), Path):
            raise CatalogError(f"{entry.name} is at an address: remove it without stores=True")
        ours = {file.address for _, file in read_products(read_file(self.path))}
        for path in sorted({self.path, *self.folder.glob("*.yaml"), *self.folder.glob("*.yml")}):
            try:
                others = CatalogView(path).list(versions=True)
            except XlandError:
                continue  # another program's file
            for other in others:
                if other.store == entry.store and not (path in ours and other.name in gone):
                    raise CatalogError(
                        f"{target} is also the store of {other.name} in {path.name}: remove {entry.name} without "
                        "stores=True"
                    )
        return target


def _there(root: Any, path: Path) -> Any:
    if root is None:
        raise CatalogError(f"there is no catalog at {path}")
    return root


def _renamed(source: Any, names: Mapping[str, str]) -> Any:
    """Return a source of an entry that is renamed: it is superseded by the same entry under its new name."""
    metadata = source.get("metadata") if isinstance(source, dict) else None
    if not isinstance(metadata, dict):
        return source
    base, version = split_name(str(metadata.get("superseded_by")))
    if base not in names:
        return source
    return {**source, "metadata": {**metadata, "superseded_by": f"{names[base]}@{version}"}}


def _without(sources: Content, gone: Collection[str]) -> Content:
    """Return the sources without some; of the versions of an entry that are left, the last one is the latest."""
    left = {key: each for key, each in sources.items() if key not in gone}
    for name in {split_name(key)[0] for key in gone} - left.keys():
        versions = [key for key in left if split_name(str(key))[0] == name]
        if versions:
            last = max(versions, key=lambda key: version_of(left[key]))
            said = {k: v for k, v in left[last]["metadata"].items() if not str(k).startswith("superseded_")}
            latest = {**left[last], "metadata": said}
            left = {name if key == last else key: latest if key == last else each for key, each in left.items()}
    return left
