"""The files of a catalog: reading one, quickly where its index is there, and changing one so that nothing is lost.

A large file has an index beside it, ``NAME.index.json``, with its content as JSON. It is used only while it fits the
file: size, time and inode, or else the SHA-256, are compared. Where it does not fit, the file itself is read.

Who changes a catalog holds its lock. Readers see the old file or the new one, never a part.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from xland.catalogs.rules import (
    for_intake_1,
    for_intake_2,
    product_data,
    product_file,
    product_token,
    split_name,
    without_folder,
)
from xland.catalogs.text import Layout, changed, lay_out, layout_from
from xland.errors import CatalogError, StoreError
from xland.paths import replacing, without_password
from xland.untrusted import plain_yaml
from xland.untrusted.folders import files_at, open_plain, sha256
from xland.untrusted.plain_yaml import Places, decoded, parse, read_bytes, render

MOST_ENTRIES = 1000
"""Entries in one file to which another one is added; plain intake takes about a second to open so many."""

INDEXED = 2**16
"""Size of a file, in bytes, from which on it has an index."""

_CATALOG_KEYS = frozenset({"sources", "metadata", "name", "description", "version"})
_INTAKE_KEYS = frozenset({"entries", "aliases", "data", "user_parameters"})
_HEADER = (
    "# xland reads 'sources'; 'entries' has the same content for intake 2, and xland.publish writes it from 'sources'\n"
)
_FORMAT = 1  # of the index, whose lines are what it belongs to, the sources, and all else
_MOST_INDEX = 64 * 2**20
_PAIRS = "\0pairs"  # JSON has no keys that are numbers
_WAIT_SECONDS = 60.0

Content = dict[Any, Any]


@dataclass(frozen=True)
class CatalogFile:
    """One file of a catalog, as it was read; ``names`` are those of its sources, ``files`` of its sub-catalogs."""

    address: Path | str
    digest: str
    names: tuple[Any, ...]
    products: Mapping[str, str]
    _content: Content | bytes = field(repr=False)
    lengths: list[Any] | None = field(default=None, repr=False)
    indexed: bool = False

    @cached_property
    def content(self) -> Content:
        """All that it says."""
        if isinstance(self._content, dict):
            return self._content
        rest = self._part(2)
        return outline({key: self.sources if key == "sources" else each for key, each in rest.items()}, self.address)

    @cached_property
    def sources(self) -> Content:
        """Entries by name."""
        found = self._content["sources"] if isinstance(self._content, dict) else self._part(1)
        return outline({"sources": found}, self.address)["sources"]  # type: ignore[no-any-return]

    @property
    def metadata(self) -> Content:
        """Its header."""
        said = (
            self._content
            if isinstance(self._content, dict)
            else outline({**self._part(2), "sources": {}}, self.address)
        )
        return said.get("metadata") or {}

    def _part(self, line: int) -> Any:
        """Return a line of the index: the sources, or all else."""
        try:
            return json.loads(self._content.split(b"\n")[line - 1], object_hook=_with_numbers)  # type: ignore[union-attr]
        except (ValueError, IndexError, AttributeError, RecursionError) as error:
            name = without_password(str(index_of(self.address)))
            raise CatalogError(f"{name} is damaged: remove it, the catalog has all that it says ({error})") from error


def read_file(address: Path | str) -> CatalogFile:
    """Read a file of a catalog, a path or a URL; CatalogError if it is not plain YAML with named entries."""
    if isinstance(address, str):
        return _read_remote(address)
    try:
        found = address.stat()
    except OSError as error:
        raise CatalogError(f"the catalog {address} cannot be read: {error.strerror}") from error
    return _read_local(address, _signature(found), _signature_of(index_of(address)))


def outline(content: Any, address: Path | str) -> Content:
    """Check the outline of a catalog."""
    shown = without_password(str(address))
    if not isinstance(content, dict) or not isinstance(content.get("sources"), dict):
        raise CatalogError(f"{shown} is not an intake catalog: it needs 'sources:' with named entries")
    unknown = sorted(str(key)[:80] for key in content.keys() - _CATALOG_KEYS - _INTAKE_KEYS)
    if unknown:
        raise CatalogError(f"{shown}: {', '.join(unknown[:5])} not allowed in a catalog (only data, no plugins)")
    for key in ("metadata", *sorted(_INTAKE_KEYS)):
        if not isinstance(content.get(key) or {}, dict):
            raise CatalogError(f"{shown}: {key} is not a mapping")
    return content


def index_of(address: Path | str) -> Path | str:
    """Return where the index of a file is, if it has one."""
    if isinstance(address, str):
        return f"{address.rpartition('.')[0]}.index.json"
    return address.with_suffix(".index.json")


@lru_cache(maxsize=64)
def _read_local(path: Path, signature: tuple[int, ...], _of_index: tuple[int, ...]) -> CatalogFile:
    """Read a file once in each process as long as it, and its index, stay as they are."""
    index = _index_parts(_index_bytes(path))
    if index is not None and index[0]["signature"] == list(signature):
        return _from_index(path, *index)
    data = read_bytes(path)
    digest = sha256(data)
    if index is not None and index[0]["digest"] == digest:
        return _from_index(path, *index)
    return _parsed(path, data, digest)


def _read_remote(url: str) -> CatalogFile:
    folder, _, name = url.rpartition("/")
    shown = without_password(url)
    try:
        files = files_at(folder)
        data, index = files.read(name, most=plain_yaml.MOST_BYTES), None
        if len(data) >= INDEXED:
            with suppress(StoreError, OSError):
                index = _index_parts(files.read(str(index_of(name)), most=_MOST_INDEX))
    except (StoreError, OSError) as error:
        raise CatalogError(f"the catalog {shown} cannot be read: {str(error) or type(error).__name__}") from None
    digest = sha256(data)
    return _from_index(url, *index) if index and index[0]["digest"] == digest else _parsed(url, data, digest)


def _parsed(address: Path | str, data: bytes, digest: str, places: Places | None = None) -> CatalogFile:
    what = f"the catalog {without_password(str(address))}"
    content = outline(parse(decoded(data, what), what, places), address)
    return CatalogFile(address, digest, *_names_in(content), content)


def _names_in(content: Content) -> tuple[tuple[Any, ...], dict[str, str]]:
    products = {str(name): file for name, source in content["sources"].items() if (file := product_file(source))}
    return tuple(name for name in content["sources"] if name not in products), products


def _from_index(address: Path | str, header: dict[str, Any], body: bytes) -> CatalogFile:
    names, products = tuple(header["names"]), header["products"]
    return CatalogFile(address, header["digest"], names, products, body, header["lengths"], indexed=True)


def _index_bytes(path: Path) -> bytes:
    with suppress(OSError, ValueError), open_plain(Path(index_of(path))) as stream:
        return stream.read(_MOST_INDEX + 1)
    return b""


def _index_parts(data: bytes) -> tuple[dict[str, Any], bytes] | None:
    """Return the first line of an index, which says what it belongs to, and the content; None if it is unusable."""
    first, _, body = data.partition(b"\n")
    try:
        header = json.loads(first)
        known = header["format"] == _FORMAT and len(data) <= _MOST_INDEX
        names, products = header["names"], header["products"]
        plain = all(isinstance(each, str | int) for each in names) and all(
            isinstance(file, str) and product_file({"driver": "yaml_file_cat", "args": {"path": file}})
            for file in products.values()
        )
        return (header, body) if known and plain and header.keys() >= {"signature", "digest", "lengths"} else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _signature(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_size, found.st_mtime_ns, found.st_ino


def _signature_of(path: Path | str) -> tuple[int, ...]:
    try:
        return _signature(Path(path).stat())
    except (OSError, ValueError):
        return ()


def _with_numbers(found: dict[str, Any]) -> dict[Any, Any]:
    return dict(found[_PAIRS]) if _PAIRS in found else found


def _as_json(value: Any) -> Any:
    """Return plain data in a form that JSON keeps: mappings with keys that are numbers become pairs."""
    if isinstance(value, list):
        return [_as_json(each) for each in value]
    if not isinstance(value, dict):
        return value
    if any(isinstance(key, int) for key in value):
        return {_PAIRS: [[key, _as_json(each)] for key, each in value.items()]}
    return {key: _as_json(each) for key, each in value.items()}


def change_file(
    path: Path,
    edit: Callable[[Content], Content],
    *,
    new: Content | None = None,
    renamed: Mapping[str, str] | None = None,
    held: Path | None = None,
) -> None:
    """Change a file; ``edit`` gets its sources and returns those that it shall have.

    ``new`` is the header of a file that does not exist yet, ``renamed`` gives the old names of sources that are
    renamed, ``held`` is the file whose lock is held already. CatalogError if readers would refuse the file, which is
    left as it was.
    """
    with nullcontext() if path == held else lock(path):
        _change(path, edit, new, renamed or {})


def _change(path: Path, edit: Callable[[Content], Content], new: Content | None, renamed: Mapping[str, str]) -> None:
    layout, old = None, {"sources": {}, **({"metadata": new} if new else {})}
    if os.path.lexists(path):
        layout, old = _read_to_change(path)
    sources = edit(old["sources"])
    if sources is old["sources"]:
        return
    content = _for_intake(path, old, sources)
    text = ""
    if layout is not None:
        layout = changed(layout, old, content, renamed)
        text = layout.text
    touched = [name for name, each in sources.items() if old["sources"].get(name) is not each]
    grown = len(sources) > max(len(old["sources"]), MOST_ENTRIES)
    try:
        text, layout = _checked(path, text, layout, content, touched, grown=grown)
    except CatalogError as error:
        raise CatalogError(f"{path} is left as it was, as it could not be read again: {error}") from error
    _replace(path, text, content, layout)


def refresh_index(path: Path) -> None:
    """Write the index of a file anew if it is missing or does not fit, and the folder can be written."""
    with suppress(CatalogError, OSError):
        if path.stat().st_size < INDEXED or read_file(path).indexed:
            return
        with lock(path):
            layout, content = _read_to_change(path)
            if layout is not None:
                data, found = read_bytes(path), path.stat()
                if layout.text.encode() == data:
                    _write_index(path, _signature(found), sha256(data), content, layout)


def _read_to_change(path: Path) -> tuple[Layout | None, Content]:
    data = read_bytes(path)
    digest, index = sha256(data), _index_parts(_index_bytes(path))
    if index is not None and index[0]["digest"] == digest:
        found = _from_index(path, *index)
        with suppress(ValueError, TypeError, KeyError, IndexError):
            layout = layout_from(data.decode(), found.content, found.lengths or [])
            return layout, found.content
    places = Places()
    content = _parsed(path, data, digest, places).content
    return lay_out(decoded(data, str(path)), content, places), content


def _for_intake(path: Path, old: Content, sources: Content) -> Content:
    """Return a catalog with these sources, and with what intake reads of them."""
    metadata = dict(old.get("metadata") or {})
    gone = old["sources"].keys() - sources.keys()
    entries = {key: for_intake_2(key, source) for key, source in sources.items()}
    kept = {key: each for key, each in (old.get("entries") or {}).items() if key not in sources and key not in gone}
    if None in entries.values():  # sources of other drivers, which intake 2 reads in catalogs of intake 1
        if any(map(product_file, sources.values())):
            raise CatalogError(
                f"{path}: a catalog that has sources of other drivers, or without a safe path, is read by intake 1, "
                "which does not know our sub-catalogs: keep those sources in a catalog of their own"
            )
        content = {key: value for key, value in old.items() if kept or key not in _INTAKE_KEYS}
        content |= {"entries": kept} if kept else {}
        sources = {key: for_intake_1(key, source) for key, source in sources.items()}
        return content | {"version": 1, "metadata": {"version": 1, **metadata}, "sources": sources}
    metadata.pop("version", None)
    aliases = {
        key: each
        for key, each in (old.get("aliases") or {}).items()
        if each not in gone and key not in gone and not ("@" in str(key) and each in sources)
    }
    latest = {
        f"{key}@{version}": key
        for key, source in sources.items()
        if (version := (source.get("metadata") or {}).get("version")) and f"{key}@{version}" not in sources
        if not split_name(str(key))[1]
    }
    products = {product_token(key): product_data(each) for key, each in sources.items() if product_file(each)}
    return {
        **old,
        "version": 2,
        "metadata": metadata,
        "sources": {key: without_folder(source) for key, source in sources.items()},
        "entries": {**kept, **entries},
        "aliases": {**aliases, **{key: key for key in entries}, **latest},
        "data": {**(old.get("data") or {}), **products},
        "user_parameters": old.get("user_parameters") or {},
    }


def _checked(
    path: Path, text: str, layout: Layout | None, content: Content, touched: list[str], *, grown: bool
) -> tuple[str, Layout | None]:
    """Return the text of a catalog, read as readers will, and its layout.

    Of a large text the parts that changed are read; the others are those of a text that was read before.
    """
    if grown:
        raise CatalogError(
            f"it would have {len(content['sources'])} entries, more than the {MOST_ENTRIES} of one file: give a "
            "product, whose entries are in a sub-catalog: product='luh2-hist'"
        )
    if layout is not None:
        if len(text) >= INDEXED:
            _check_parts(layout, content, touched)
            return text, layout
        with suppress(CatalogError):
            places = Places()
            found = parse(text, "it", places)
            if repr(found) == repr(content):  # values that are not numbers are equal to none
                return text, lay_out(text, content, places)
    places = Places()
    text = ("" if content.get("version") == 1 else _HEADER) + render(content, str(path))
    found = outline(parse(text, "it", places), path)
    return text, lay_out(text, found, places) if repr(found) == repr(content) else None


def _check_parts(layout: Layout, content: Content, touched: list[str]) -> None:
    """Read the parts of a text that changed, and compare its size with what is read."""
    for key in ("sources", "entries"):
        section = layout.sections.get(key)
        for name in touched if section is not None else ():
            if name in content.get(key, {}):
                said = parse("".join(section.parts[name]), "it")  # type: ignore[union-attr]
                if repr(said) != repr({name: content[key][name]}):
                    raise CatalogError(f"{key} of {name!r} would be read as something else")
    size = len(layout.text.encode())
    if size > plain_yaml.MOST_BYTES:
        raise CatalogError(f"it would be larger than a catalog may be ({plain_yaml.MOST_BYTES // 2**20} MiB)")
    if _count(content) > plain_yaml.MOST_NODES:
        raise CatalogError(f"it would hold more than {plain_yaml.MOST_NODES} values: give a product='luh2-hist'")


def _count(value: Any) -> int:
    """Count keys and values, as the parser does."""
    if isinstance(value, dict):
        return 1 + len(value) + sum(map(_count, value.values()))
    return 1 + sum(map(_count, value)) if isinstance(value, list) else 1


def _replace(path: Path, text: str, content: Content, layout: Layout | None) -> None:
    """Write a catalog in one step, and then its index."""
    data = text.encode()
    with replacing(path, error=CatalogError) as part:
        part.write_bytes(data)
        signature = _signature(part.stat())  # renaming keeps it
    if layout is not None and len(data) >= INDEXED:
        _write_index(path, signature, sha256(data), content, layout)
    elif _index_parts(_index_bytes(path)) is not None:
        Path(index_of(path)).unlink(missing_ok=True)


def _write_index(path: Path, signature: tuple[int, ...], digest: str, content: Content, layout: Layout) -> None:
    if os.path.lexists(index_of(path)) and _index_parts(_index_bytes(path)) is None:
        return  # a file of another program has this name
    names, products = _names_in(content)
    header = {"format": _FORMAT, "signature": signature, "digest": digest, "names": names, "products": products}
    rest = content | {"sources": None}
    lines = [
        json.dumps(header | {"lengths": layout.lengths}),
        *(json.dumps(_as_json(each)) for each in (content["sources"], rest)),
    ]
    with replacing(Path(index_of(path)), error=CatalogError) as part:
        part.write_text("\n".join(lines))


@contextmanager
def changing(path: Path) -> Iterator[CatalogFile | None]:
    """Hold the lock of a catalog; yield what it says, None if it does not exist yet."""
    with lock(path):
        yield read_file(path) if os.path.lexists(path) else None


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Let one process at a time change a catalog; a killed process releases the lock by itself.

    CatalogError if something else, such as a planted link, has the name of the lock, or if another publisher keeps it.
    """
    name = path.with_name(f".{path.name}.lock")
    try:
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise CatalogError(f"{path} cannot be locked: {name}: {error.strerror}; move away what is there") from error
    with os.fdopen(descriptor, "rb"):
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise CatalogError(f"{path} cannot be locked: {name} is not a plain file; move it away")
        end = time.monotonic() + _WAIT_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise CatalogError(
                        f"another process has published to {path} for {_WAIT_SECONDS:.0f} s; try again when it is done"
                    ) from None
                time.sleep(0.05)
        yield
