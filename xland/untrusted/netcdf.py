"""NetCDF files of strangers, checked before a value is read: NetCDF-4 (HDF5) and classic NetCDF.

HDF5 can lead a reader anywhere: to other files (external storage, external links, virtual datasets), into
libraries (plugin filters) and in circles. NetCDF needs none of that, so a file that asks for it is refused.
"""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path
from typing import Any

from xland.errors import MissingDependencyError, StoreError
from xland.untrusted.folders import open_plain
from xland.untrusted.stores import Layout, check_sizes, check_together

_HDF5 = b"\x89HDF\r\n\x1a\n"
_CLASSIC = (b"CDF\x01", b"CDF\x02", b"CDF\x05")
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_GRIB = b"GRIB"
_WIDTHS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 8, 7: 1, 8: 2, 9: 4, 10: 8, 11: 8}  # bytes of the types of classic files
_MOST_RECORDS = 2**31
_FILTERS = {1: "deflate", 2: "shuffle", 3: "fletcher32", 4: "szip", 5: "nbit", 6: "scaleoffset"}
_DEFLATE = 1
_DIMENSIONS = ("DIMENSION_LIST", "REFERENCE_LIST")
_MOST_OBJECTS = 1000
_MOST_ATTRIBUTE = 2**24
_DEEPEST = 50
_MOST_DIMENSIONS = 32
_MOST_UNWRITTEN = 2**20  # bytes of a variable that was defined and never written


def check_file(path: Path, *, stranger: bool = False) -> dict[str, Any]:
    """Refuse a file on this machine that leads out of itself, or asks for more than the machine can hold.

    The file of a ``stranger`` is NetCDF that needs no plugin. A user may also bring NetCDF that is packed with plugins,
    GeoTIFF and GRIB; rasters of other kinds, whatever their names end with, can name files and servers to read from.
    Returns options of :func:`xarray.open_dataset`. A :class:`StoreError` names the variable, and what it asks for.
    """
    try:
        with open_plain(path) as stream:
            begin, size = stream.read(8), os.fstat(stream.fileno()).st_size
            if begin[:4] in _CLASSIC:
                _check_classic(stream, str(path), size)
                # numbers of 64 bits are for the NetCDF library alone
                return {"engine": "netcdf4" if begin[:4] == _CLASSIC[2] else "scipy"} if stranger else {}
            if begin == _HDF5 or stranger:
                check_hdf5(stream, str(path), size, plugins=not stranger)
                return {"engine": "h5netcdf"} if stranger else {}
    except OSError as error:
        raise StoreError(f"{path} cannot be read as NetCDF: {error.strerror or error}") from error
    if begin[:4] in _TIFF:
        return {"engine": "rasterio", "open_kwargs": {"driver": "GTiff"}}
    if begin[:4] != _GRIB:
        raise StoreError(
            f"{path} cannot be read as NetCDF: it is neither NetCDF nor GeoTIFF nor GRIB; "
            "is it damaged, unfinished or of another format?"
        )
    return {}


def check_hdf5(stream: Any, shown: str, size: int, *, plugins: bool = False) -> None:
    """Refuse an HDF5 file of so many bytes that NetCDF-4 could not have made, or that leads out of itself.

    ``shown`` is its path or address, for messages; ``plugins`` says whether filters may need plugins.
    """
    stream.seek(0)
    if stream.read(8) != _HDF5:
        raise StoreError(f"{shown} cannot be read as NetCDF: it does not begin like a NetCDF file")
    try:
        import h5py
    except ImportError as error:
        raise MissingDependencyError(f"{shown} needs the package h5py, which is missing: pip install h5py") from error
    stream.seek(0)
    try:
        with h5py.File(stream, "r") as file:
            _check_group(file, shown, size, plugins)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"{shown} cannot be read as NetCDF: it is damaged ({error})"[:600]) from error


def _check_group(root: Any, shown: str, size: int, plugins: bool) -> None:
    from h5py import h5l, h5o

    pending, seen = [(root.id, "", 0)], set()
    layouts: dict[str, Layout] = {}
    while pending:
        group, above, depth = pending.pop()
        _check_attributes(group, f"{shown}: {above or '/'}")
        for name in group:
            where = f"{shown}: {above}{name.decode(errors='replace')!r:.120}"
            if group.links.get_info(name).type != h5l.TYPE_HARD:
                raise StoreError(f"{where} is a link to elsewhere, which is not followed; put the values into the file")
            item = h5o.open(group, name)
            state = h5o.get_info(item)
            if (state.fileno, state.addr) in seen:
                raise StoreError(f"{where} stands in two places; the file may lead round in a circle")
            seen.add((state.fileno, state.addr))
            if len(seen) > _MOST_OBJECTS or depth > _DEEPEST:
                raise StoreError(f"{shown} holds more variables and groups than are opened ({_MOST_OBJECTS})")
            if state.type == h5o.TYPE_GROUP:
                pending.append((item, f"{above}{name.decode(errors='replace')}/", depth + 1))
            elif state.type == h5o.TYPE_DATASET:
                layouts[f"{above}{name.decode(errors='replace')}"] = _check_dataset(item, where, size, plugins)
            else:
                raise StoreError(f"{where} is a type of its own; numbers and text are read")
    check_together(shown, layouts)


def _check_dataset(dataset: Any, where: str, size: int, plugins: bool) -> Layout:
    """Check a variable; return how it lies in the file."""
    from h5py import h5d, h5ds, h5t

    created = dataset.get_create_plist()
    if created.get_external_count() > 0:
        raise StoreError(f"{where} keeps its values in another file, which is not followed; put them into the file")
    layout = created.get_layout()
    if layout not in (h5d.COMPACT, h5d.CONTIGUOUS, h5d.CHUNKED):
        raise StoreError(f"{where} takes its values from other files, which are not followed; put them into the file")
    filters = [created.get_filter(index)[0] for index in range(created.get_nfilters())]
    if filters.count(_DEFLATE) > 1:
        raise StoreError(f"{where} is packed twice; write it again with zlib")
    strange = [code for code in filters if code not in _FILTERS]
    if strange and not plugins:
        raise StoreError(
            f"{where} is packed with filter {strange[0]}, which needs a plugin; known are: "
            f"{', '.join(_FILTERS.values())}. Write it again with zlib"
        )
    kind = dataset.get_type()
    if kind.get_class() not in (h5t.INTEGER, h5t.FLOAT, h5t.STRING, h5t.BITFIELD, h5t.ENUM) or kind.get_size() > 2**16:
        raise StoreError(f"{where} has a type of its own; numbers and text are read")
    shape = tuple(dataset.shape)
    chunks = tuple(created.get_chunk()) if layout == h5d.CHUNKED else tuple(max(1, length) for length in shape)
    is_scale = h5ds.is_scale(dataset)
    # NetCDF keeps the length of a dimension as a variable that is never read
    bare = is_scale and h5ds.get_scale_name(dataset).startswith(b"This is a netCDF dimension but not")
    is_index = len(shape) == 1 and is_scale and not bare
    lies = Layout(shape, chunks, chunks, kind.get_size(), is_index)
    declared, stored = math.prod(shape) * lies.width, dataset.get_storage_size()
    if layout == h5d.CHUNKED and not bare:
        check_sizes(where, lies)
    elif not bare and (declared > size + _MOST_UNWRITTEN or stored > size):
        raise StoreError(f"{where} says that it has {max(declared, stored)} bytes; the file has {size}")
    if is_index and stored > lies.files * lies.in_file:
        raise StoreError(f"{where} takes {stored} bytes, more than its {shape[0]} cells can be packed into")
    _check_attributes(dataset, where)
    return lies


def _check_attributes(item: Any, where: str) -> None:
    from h5py import h5a, h5t

    for index in range(h5a.get_num_attrs(item)):
        attribute = h5a.open(item, index=index)
        name = attribute.name.decode(errors="replace")
        kind = attribute.get_type()
        if attribute.get_storage_size() > _MOST_ATTRIBUTE:
            raise StoreError(f"{where}: its attribute {name!r:.120} is larger than {_MOST_ATTRIBUTE} bytes")
        # these tie variables to their dimensions, within the file
        if name in _DIMENSIONS or kind.get_class() == h5t.ENUM:
            continue
        base = kind.get_super() if kind.get_class() in (h5t.VLEN, h5t.ARRAY) else kind
        if base.get_class() in (h5t.REFERENCE, h5t.COMPOUND, h5t.OPAQUE, h5t.VLEN):
            raise StoreError(f"{where}: its attribute {name!r:.120} has a type of its own; numbers and text are read")


def _check_classic(stream: Any, where: str, size: int) -> None:
    """Refuse a classic file whose header is not whole, or whose variables would not fit into it: they are not packed.

    The NetCDF library ends the process when it reads a damaged header, so the header is read here, as the appendix
    "File Format Specifications" of its guide defines it.
    """
    stream.seek(0)
    try:
        records, lengths, variables = _Header(stream.read(_MOST_ATTRIBUTE)).read()
    except (ValueError, struct.error) as error:
        raise StoreError(f"{where} cannot be read as NetCDF: its header is damaged ({error})"[:600]) from error
    record = lengths.index(0) if 0 in lengths else None
    sizes = [width * math.prod(lengths[dim] for dim in dims if lengths[dim]) for _, dims, width, _ in variables]
    along = [dims[:1] == (record,) for _, dims, _, _ in variables]
    stride = sum(-(-taken // 4) * 4 for taken, is_along in zip(sizes, along, strict=True) if is_along)
    for (name, dims, _, begin), taken, is_along in zip(variables, sizes, along, strict=True):
        repeated = (records - 1) * (stride if sum(along) > 1 else taken) if is_along else 0
        if record in dims[1:]:
            raise StoreError(f"{where} cannot be read as NetCDF: {name!r:.120} has records within records")
        if (records or not is_along) and begin + repeated + taken > size:
            raise StoreError(
                f"{where} cannot be read as NetCDF: {name!r:.120} says that it has {repeated + taken} bytes; "
                f"the file has {size}: it was cut short"
            )


class _Header:
    """The header of a classic file, read from its beginning to its end; ValueError or struct.error if it is damaged."""

    def __init__(self, content: bytes) -> None:
        self._content, self._version, self._at = content, content[3], 4

    def read(self) -> tuple[int, list[int], list[tuple[str, tuple[int, ...], int, int]]]:
        """Return the number of records, the length of each dimension, 0 for that of the records, and the variables.

        A variable has a name, the numbers of its dimensions, the bytes of a value, and where its values begin.
        """
        records = self._count()
        lengths = [(self._name(), self._count())[1] for _ in range(self._entries(10))]
        if records > _MOST_RECORDS or lengths.count(0) > 1:
            raise ValueError(f"{records} records, {lengths.count(0)} dimensions without end")
        self._pass_attributes()
        found = []
        for _ in range(self._entries(11)):
            name, rank = self._name(), self._count()
            dims = tuple(self._count() for _ in range(min(rank, _MOST_DIMENSIONS + 1)))
            if rank > _MOST_DIMENSIONS or any(dim >= len(lengths) for dim in dims):
                raise ValueError(f"{name!r:.120} has {rank} dimensions, or some that are not there")
            self._pass_attributes()
            width = self._width()
            self._count()  # its size, which follows from the rest
            found.append((name, dims, width, self._number(4 if self._version == 1 else 8)))
        if len({name for name, *_ in found}) < len(found):
            raise ValueError("two variables have one name")
        return records, lengths, found

    def _pass_attributes(self) -> None:
        for _ in range(self._entries(12)):
            self._name()
            self._skip(self._width() * self._count())

    def _number(self, size: int) -> int:
        (found,) = struct.unpack_from(">I" if size == 4 else ">Q", self._content, self._at)
        self._at += size
        return int(found)

    def _count(self) -> int:
        return self._number(8 if self._version == 5 else 4)

    def _entries(self, tag: int) -> int:
        """Return how many entries a list has."""
        found, entries = self._number(4), self._count()
        if (found != tag and (found, entries) != (0, 0)) or entries > _MOST_OBJECTS:
            raise ValueError(f"a list that begins with {found}, not {tag}, and has {entries} entries")
        return entries

    def _name(self) -> str:
        length = self._count()
        raw = self._content[self._at : self._at + length]
        self._skip(length)
        name = raw.decode()
        if not name or "\0" in name or "/" in name:
            raise ValueError(f"the name {name!r:.120}")
        return name

    def _width(self) -> int:
        """Return the bytes of a value of the type that follows."""
        kind = self._number(4)
        if kind not in _WIDTHS or (kind > 6 and self._version != 5):
            raise ValueError(f"type {kind}")
        return _WIDTHS[kind]

    def _skip(self, size: int) -> None:
        """Go past bytes and what fills them up to a multiple of four."""
        self._at += -(-size // 4) * 4
        if self._at > len(self._content):
            raise ValueError("it ends too early")
