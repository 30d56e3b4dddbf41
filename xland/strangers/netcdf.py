"""NetCDF files of strangers, checked before a value is read: NetCDF-4 (HDF5) and classic NetCDF.

HDF5 can lead a reader anywhere: to other files (external storage, external links, virtual datasets), into
libraries (plugin filters) and in circles. NetCDF needs none of that, so a file that asks for it is refused.
"""

from __future__ import annotations

import math
import os
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

from xland.errors import MissingDependencyError, StoreError
from xland.strangers.folders import open_plain
from xland.strangers.stores import MOST_INDEX, check_sizes

_HDF5 = b"\x89HDF\r\n\x1a\n"
_CLASSIC = (b"CDF\x01", b"CDF\x02")
_FILTERS = {1: "deflate", 2: "shuffle", 3: "fletcher32", 4: "szip", 5: "nbit", 6: "scaleoffset"}
_DIMENSIONS = ("DIMENSION_LIST", "REFERENCE_LIST")
_MOST_OBJECTS = 10_000
_MOST_ATTRIBUTE = 2**24
_DEEPEST = 50
_MOST_DIMENSIONS = 32
_MOST_UNWRITTEN = 2**20  # bytes of a variable that was defined and never written


def check_netcdf(path: Path) -> str:
    """Refuse a file that leads out of itself, or asks for more than a machine can hold.

    Parameters
    ----------
    path : Path
        A file on this machine.

    Returns
    -------
    str
        The engine of xarray for it: ``"h5netcdf"``, or ``"scipy"`` for classic files.

    Raises
    ------
    StoreError
        Names the variable, and what it asks for.
    """
    try:
        with open_plain(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            if stream.read(4) in _CLASSIC:
                _check_classic(path, size)
                return "scipy"
            check_hdf5(stream, str(path), size)
    except OSError as error:
        raise StoreError(f"{path} cannot be read as NetCDF: {error.strerror or error}") from error
    return "h5netcdf"


def refuse_hostile_netcdf(path: Path) -> None:
    """Refuse a NetCDF-4 file that leads out of itself; what it is otherwise is left to those who open it.

    For files that a user brings, which may be of other kinds and packed with the user's own plugins.
    """
    with suppress(OSError), open_plain(path) as stream:
        if stream.read(8) == _HDF5:
            check_hdf5(stream, str(path), os.fstat(stream.fileno()).st_size, plugins=True)


def check_hdf5(stream: Any, shown: str, size: int, *, plugins: bool = False) -> None:
    """Refuse an HDF5 file that NetCDF-4 could not have made, or that leads out of itself.

    Parameters
    ----------
    stream : binary file
    shown : str
        Its path or address, for messages.
    size : int
        Its bytes.
    plugins : bool
        Whether filters may need plugins.
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
                _check_dataset(item, where, size, plugins)
            else:
                raise StoreError(f"{where} is a type of its own; numbers and text are read")


def _check_dataset(dataset: Any, where: str, size: int, plugins: bool) -> None:
    from h5py import h5d, h5ds

    created = dataset.get_create_plist()
    if created.get_external_count() > 0:
        raise StoreError(f"{where} keeps its values in another file, which is not followed; put them into the file")
    layout = created.get_layout()
    if layout not in (h5d.COMPACT, h5d.CONTIGUOUS, h5d.CHUNKED):
        raise StoreError(f"{where} takes its values from other files, which are not followed; put them into the file")
    for index in range(created.get_nfilters()):
        code = created.get_filter(index)[0]
        if code not in _FILTERS and not plugins:
            raise StoreError(
                f"{where} is packed with filter {code}, which needs a plugin; known are: "
                f"{', '.join(_FILTERS.values())}. Write it again with zlib"
            )
    _check_type(dataset.get_type(), where)
    shape = tuple(dataset.shape)
    chunks = tuple(created.get_chunk()) if layout == h5d.CHUNKED else shape
    declared, stored = math.prod(shape) * dataset.get_type().get_size(), dataset.get_storage_size()
    if _is_bare_dimension(dataset):
        pass  # NetCDF keeps the length of a dimension as a variable that is never read
    elif layout == h5d.CHUNKED:
        check_sizes(where, shape, chunks, chunks, dataset.get_type().get_size())
    elif declared > size + _MOST_UNWRITTEN:
        raise StoreError(f"{where} says that it has {declared} bytes; the file has {size}")
    elif stored > size:
        raise StoreError(f"{where} says that it takes {stored} bytes; the file has {size}")
    if len(shape) == 1 and shape[0] > MOST_INDEX and h5ds.is_scale(dataset) and not _is_bare_dimension(dataset):
        raise StoreError(f"{where} is a coordinate of {shape[0]} cells; at most {MOST_INDEX} are read")
    _check_attributes(dataset, where)


def _is_bare_dimension(dataset: Any) -> bool:
    from h5py import h5ds

    return h5ds.is_scale(dataset) and h5ds.get_scale_name(dataset).startswith(b"This is a netCDF dimension but not")


def _check_type(kind: Any, where: str) -> None:
    """Refuse types that refer to other objects, or that NetCDF keeps for types of the user."""
    from h5py import h5t

    code = kind.get_class()
    if code not in (h5t.INTEGER, h5t.FLOAT, h5t.STRING, h5t.BITFIELD, h5t.ENUM) or kind.get_size() > 2**16:
        raise StoreError(f"{where} has a type of its own; numbers and text are read")


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


def _check_classic(path: Path, size: int) -> None:
    """Refuse a classic file whose variables would not fit into it: they are not packed.

    The NetCDF library ends the process when it reads a damaged header, so SciPy reads it.
    """
    from scipy.io import netcdf_file

    try:
        with warnings.catch_warnings(), netcdf_file(path, mmap=True) as file:
            warnings.simplefilter("ignore")  # of views that are still in use, of which none is kept
            for name, variable in file.variables.items():
                taken = math.prod(map(int, variable.shape)) * variable.itemsize()
                if taken > size or len(variable.shape) > _MOST_DIMENSIONS:
                    raise StoreError(
                        f"{path}: {name!r:.120} says that it has {taken} bytes; the file has {size}: it was cut short"
                    )
    except StoreError:
        raise
    except Exception as error:  # SciPy takes whatever a header says for the truth
        raise StoreError(f"{path} cannot be read as NetCDF: its header is damaged ({error})"[:600]) from error
