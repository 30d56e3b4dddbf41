"""Maps of land use, of confidence and of differences, drawn with matplotlib.

Large maps are thinned by taking every n-th cell before anything is read, so that a global map costs no more memory than
its picture. Axes that are not given come from pyplot, as notebooks expect.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.arguments import Count, Positive, checked, fits, items_of, refusal, shown, unknown
from xland.errors import GridError, MissingDependencyError, RegionError, VocabularyError
from xland.geo.conventions import years_of
from xland.geo.grid import Grid
from xland.geo.orientation import find_dimension, orient
from xland.paths import local_path, replacing
from xland.reading.variables import check_array, map_of
from xland.vocabulary import CLASS_NAMES, CLASSES, OCEAN, check_codes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_PIXELS = 2_000_000
"""Cells of a map that are drawn at most; more than a screen shows."""

AGREE, DISAGREE = "#f6f5f1", "#8c2d7c"
"""Colours of a difference map: told apart by lightness as well, so that colour-blind readers can."""

_MOST_COLUMNS = 48  # maps in a figure
_DIFFERENCE = {"same class": AGREE, "another class": DISAGREE}
_BLANK = 255
"""Stands for no data among codes that are drawn."""


@checked(GridError)
def draw(
    da: xr.DataArray,
    ax: Axes | None = None,
    *,
    title: str | None = None,
    legend: bool = True,
    label: str | None = None,
    figsize: tuple[float, float] | None = None,
    coastlines: bool = False,
    transform: Any = None,
    col: str | None = None,
    col_wrap: Count = 3,
    max_pixels: Count = MAX_PIXELS,
) -> Any:
    """Draw class codes as :func:`land_use_map` does, and everything else as :func:`confidence_map` does.

    Class codes are whole numbers of a variable with the name ``land_use``, with ``flag_values`` or an integer type, or
    that go beyond 1 and no further than the last code; they may have become floats with NaN (``where``). Other codes
    are drawn in their own ``flag_colors``, as gains and losses are.

    Parameters
    ----------
    da : DataArray
        One time step, or several with ``col``; any orientation.
    ax, title, figsize, coastlines, transform, col, col_wrap, max_pixels
        As in :func:`land_use_map`.
    legend : bool
        Name the classes, or draw the colour bar.
    label : str, optional
        What the colour bar shows; by default the ``long_name`` of the variable, or its name.

    Returns
    -------
    matplotlib Axes, or an array of them with ``col``
    """
    place = _Place(ax, figsize, coastlines, transform, col, col_wrap)
    return _draw(da, place, title, legend, label, max_pixels)


@checked(GridError)
def land_use_map(
    da: xr.DataArray,
    ax: Axes | None = None,
    *,
    title: str | None = None,
    legend: bool = True,
    figsize: tuple[float, float] | None = None,
    coastlines: bool = False,
    transform: Any = None,
    col: str | None = None,
    col_wrap: Count = 3,
    max_pixels: Count = MAX_PIXELS,
) -> Any:
    """Draw a map of class codes in the colours of the vocabulary.

    Parameters
    ----------
    da : DataArray of class codes
        One time step; any names and order of latitude and longitude. Drawn north up. NaN (of codes that ``where`` made
        floats) is no data and left blank.
    ax : matplotlib Axes, optional
        By default those of a new pyplot figure. On axes of cartopy the map is drawn in their projection.
    title : str, optional
        By default the year, where the map says it.
    legend : bool
        Name the classes that occur.
    figsize : (width, height), optional
        Inches of the new figure.
    coastlines : bool
        Draw the coastlines of cartopy, which fetches them once. A new figure then has axes of cartopy.
    transform : PlateCarree of cartopy, optional
        Need not be given: maps are always in degrees.
    col : str, optional
        Draw a map for each step along this dimension, such as ``"time"``, side by side in one figure.
    col_wrap : int
        Maps in a row, with ``col``.
    max_pixels : int
        Larger maps are thinned: every n-th row and column is drawn, so that codes are never mixed. With ``col`` that
        counts for all of them together.

    Returns
    -------
    matplotlib Axes, or an array of them with ``col``

    Raises
    ------
    GridError
        If there are several time steps or other dimensions than ``col``; if the axes cannot show a map of degrees, or
        their projection does not show this part of the globe.
    VocabularyError
        If codes are unknown.
    MissingDependencyError
        If there are to be coastlines and cartopy is missing.
    """
    place = _Place(ax, figsize, coastlines, transform, col, col_wrap)
    return _draw(da, place, title, legend, None, max_pixels, classes=True)


@checked(GridError)
def confidence_map(
    da: xr.DataArray,
    ax: Axes | None = None,
    *,
    title: str | None = None,
    colorbar: bool = True,
    label: str | None = None,
    max_pixels: Count = MAX_PIXELS,
) -> Axes:
    """Draw a probability, a confidence or a share in a colour scale that colour-blind readers can read.

    The scale is 0 to 1, or the range of the values where some lie outside of that. NaN is left blank.

    Parameters
    ----------
    da : DataArray
        One time step, of ``probability`` one class; any orientation.
    colorbar : bool
    ax, title, label, max_pixels
        As in :func:`draw`.

    Returns
    -------
    matplotlib Axes
    """
    return _draw(da, _Place(ax), title, colorbar, label, max_pixels, classes=False)


@checked(GridError)
def difference(
    predicted: xr.DataArray,
    observed: xr.DataArray,
    ax: Axes | None = None,
    *,
    title: str | None = None,
    legend: bool = True,
    max_pixels: Count = MAX_PIXELS,
) -> Axes:
    """Draw where two maps of class codes agree and where they do not.

    Parameters
    ----------
    predicted, observed : DataArray of class codes
        On the same cells; the observed map may cover more than the predicted one.
    ax, title, legend, max_pixels
        As in :func:`land_use_map`.

    Returns
    -------
    matplotlib Axes
        Cells that are ocean in the observed map are left in the colour of ocean.

    Raises
    ------
    GridError
        If the observed map lacks cells of the predicted one.
    """
    view = _view(predicted, "predicted map", max_pixels)
    ax = _axes(_Place(ax), view.grid)
    _draw_difference(view, observed, ax, title)
    if legend:
        _explain(ax, {**_DIFFERENCE, "ocean": CLASSES[OCEAN].color})
    return ax


@checked(GridError)
def side_by_side(
    maps: Mapping[str, xr.DataArray],
    *,
    observed: str | None = None,
    columns: Count | None = None,
    title: str | None = None,
    path: str | os.PathLike[str] | None = None,
    max_pixels: Count = MAX_PIXELS,
    dpi: Count = 150,
) -> Figure:
    """Draw several maps with one legend, and where each differs from the observed one.

    Parameters
    ----------
    maps : mapping of str to DataArray
        Maps of class codes by title.
    observed : str, optional
        Name of the observed map; a second row then shows where the others differ from it.
    columns : int, optional
        Maps in a row; by default all of them, or three without ``observed``.
    title : str, optional
    path : path, optional
        Write the figure as PNG there.
    max_pixels : int
        For each map.
    dpi : int
        Dots per inch of the PNG.

    Returns
    -------
    matplotlib Figure
        Not known to pyplot.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    class Page(Figure):
        def _repr_png_(self) -> bytes:  # a notebook would only show what pyplot knows
            page = io.BytesIO()
            self.savefig(page, dpi=72)
            return page.getvalue()

    if not maps:
        raise GridError("nothing to draw: pass at least one map")
    if observed is not None and observed not in maps:
        raise GridError(f"there is no map {observed!r} to compare with; the maps are {', '.join(maps)}")
    across = columns or (len(maps) if observed else min(3, len(maps)))
    down = -(-len(maps) // across)
    views = {name: _view(each, f"map {name!r}", max_pixels) for name, each in maps.items()}
    blocks, height = down * (2 if observed else 1), 6.0 * max(_height(view.grid) for view in views.values())
    figure = Page(figsize=(6.0 * across, (height + 0.4) * blocks + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(blocks, across, squeeze=False)
    entries: dict[str, str] = {}
    for position, (name, view) in enumerate(views.items()):
        row, column = divmod(position, across)
        entries |= _paint_codes(axes[row, column], view, _codes(view.data, f"map {name!r}"), _CLASSES, name)
        if observed is not None and name != observed:
            _draw_difference(view, maps[observed], axes[row + down, column], f"{name}: where it differs")
    for ax in axes.ravel():
        if not ax.images:
            ax.set_axis_off()
    entries = {each.long_name: each.color for each in CLASSES if each.long_name in entries}
    entries |= _DIFFERENCE if observed and len(maps) > 1 else {}
    _explain(figure, entries, "medium")
    if title:
        figure.suptitle(title, fontsize="x-large")
    if path is not None:
        save(figure, path, dpi=dpi)
    return figure


def class_series(
    areas: xr.DataArray, *, title: str | None = None, path: str | os.PathLike[str] | None = None, dpi: int = 150
) -> Figure:
    """Draw the area of each class by year, with a shade behind the years that are not observed.

    Parameters
    ----------
    areas : DataArray (time, class)
        ``check_seams(product).areas`` of :mod:`xland.scores.seams`: square kilometres, with ``source`` along time.
    title : str, optional
    path : path, optional
        Save it as PNG.
    dpi : int

    Returns
    -------
    matplotlib Figure
    """
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(8, 4.5), layout="constrained")
    years, sources = areas["time"].values, areas["source"].values
    for each in CLASSES[1:]:
        values = areas.sel({"class": each.name}).values / 1e6
        if values.any():
            ax.plot(years, values, color=each.color, label=each.long_name, linewidth=1.8)
    for name, shade in (("reconstructed", "#e4e4e4"), ("projected", "#e8f0f8")):
        own = years[sources == name]
        if own.size:
            ax.axvspan(own.min() - 0.5, own.max() + 0.5, color=shade, label=name, zorder=0)
    ax.set(ylabel="million km²", xlabel="year", title=title or "area of each class", xlim=(years[0], years[-1]))
    ax.set_ylim(bottom=0)
    figure.legend(fontsize="small", loc="outside right center")
    if path is not None:
        save(figure, path, dpi=dpi)
    return figure


def save(figure: Figure, path: str | os.PathLike[str], *, dpi: int = 150) -> Path:
    """Write a figure as PNG; an existing file is replaced at once or not at all."""
    final = local_path(path, what="a figure")
    with replacing(final) as part:
        figure.savefig(part, dpi=dpi, format="png")
    return final


class _View(NamedTuple):
    """The cells of a map that are drawn, the whole grid, and the edges of the picture in degrees."""

    data: xr.DataArray
    grid: Grid
    extent: tuple[float, float, float, float]


def _one_step(da: xr.DataArray, what: str) -> tuple[xr.DataArray, Grid]:
    """Return one time step in canonical order, lazily, and its grid."""
    check_array(map_of(da, what), f"the {what}", VocabularyError, "numbers")
    data, _ = orient(da, what=what)
    several = [f"{dim} ({data.sizes[dim]})" for dim in data.dims if dim not in {"lat", "lon"} and data.sizes[dim] != 1]
    if several:
        raise GridError(f"the {what} has several steps along {', '.join(several)}; select one of each with sel or isel")
    data = data.isel({dim: 0 for dim in data.dims if dim not in {"lat", "lon"}}, drop=True)
    if not data.size:
        raise RegionError(f"the {what} holds no cell: its shape is {data.shape}")
    return data, Grid.from_centres(data["lat"].values, data["lon"].values)


def _view(da: xr.DataArray, what: str, max_pixels: int) -> _View:
    """Read every n-th row and column of a map, so that about ``max_pixels`` cells are left at most."""
    data, grid = _one_step(da, what)
    step = stride(grid, max_pixels)
    data = data.isel({name: slice(min(step // 2, data.sizes[name] - 1), None, step) for name in ("lat", "lon")})
    # each cell that is left stands for a square of the cells around it
    size = grid.resolution * step
    extent = (grid.west, grid.west + data.sizes["lon"] * size, grid.north - data.sizes["lat"] * size, grid.north)
    return _View(data.compute(), grid, extent)


def stride(grid: Grid, max_pixels: int) -> int:
    """Return along how many cells a map is thinned to have about ``max_pixels`` at most."""
    return max(1, math.ceil(math.sqrt(grid.rows * grid.columns / max_pixels)))


def _draw_difference(view: _View, observed: xr.DataArray, ax: Axes, title: str | None) -> None:
    from matplotlib.colors import to_rgba

    reference, grid = _one_step(observed, "observed map")
    longitude = grid.west + (view.data["lon"].values - grid.west) % 360
    places = {"lat": view.data["lat"].values, "lon": longitude}
    try:
        beside = reference.sel(places, method="nearest", tolerance=0.05 * grid.resolution)
    except KeyError as error:
        raise GridError(
            "the observed map lacks cells of the predicted one, or their cells do not coincide; "
            "select the same region of both"
        ) from error
    theirs, ours = _codes(beside, "observed map"), _codes(view.data, "predicted map")
    picture = np.where((theirs == ours)[..., None], to_rgba(AGREE), to_rgba(DISAGREE))
    picture[theirs == OCEAN] = to_rgba(CLASSES[OCEAN].color)
    picture[(theirs == _BLANK) | (ours == _BLANK)] = 0
    _paint(ax, picture, view, title)


def _draw(
    da: xr.DataArray,
    place: _Place,
    title: str | None,
    legend: bool,
    label: str | None,
    max_pixels: int,
    classes: bool | None = None,
) -> Any:
    """Draw class codes or amounts, by default as the values ask for; with ``col`` all steps with one legend or scale.

    Everything is read and checked before there is a figure.
    """
    what = "map" if da.name is None else f"map {str(da.name)!r}"
    steps = [da] if place.col is None else _steps(da, place, what)
    views = [_view(step, what, max(max_pixels // len(steps), 1)) for step in steps]
    palette = _palette(da, all(_are_classes(view.data) for view in views) if classes is None else classes)
    pictures = [_codes(view.data, what, palette) if palette else view.data.values.astype(float) for view in views]
    if place.col is None:
        axes = np.array([[_axes(place, views[0].grid)]])
        years = (years_of(da, what=what) or ()) if palette and title is None else ()
        headings = [f"{years[0]}" if len(years) == 1 else title]
    else:
        axes = _panels(place, views[0].grid, len(views))
        headings = [_step_title(step, place.col, number) for number, step in enumerate(steps)]
        if title:
            axes[0, 0].figure.suptitle(title)
    scale: dict[str, Any] = {} if palette else _scale(pictures)
    present: dict[str, str] = {}
    for ax, view, picture, heading in zip(axes.ravel(), views, pictures, headings, strict=False):
        if palette:
            present |= _paint_codes(ax, view, picture, palette, heading)
        else:
            image = _paint(ax, picture, view, heading, **scale)
    if legend and palette:
        entries = {name: fill for name, fill in palette.colors.items() if name in present}
        _explain(axes[0, 0] if place.col is None else axes[0, 0].figure, entries)
    elif legend:
        apart = {"pad": 0.02} if place.col is None else {}
        axes[0, 0].figure.colorbar(image, ax=axes, shrink=0.7, label=_label(da, label), **apart)
    return axes[0, 0] if place.col is None else axes


def _steps(da: xr.DataArray, place: _Place, what: str) -> list[xr.DataArray]:
    """Return the maps along a dimension that are drawn side by side."""
    if place.ax is not None:
        raise GridError("col makes a figure of its own: leave out ax, or draw one step on it")
    if place.col not in da.dims:
        raise GridError(f"{what}: {unknown('dimension', place.col, da.dims)}")
    count = da.sizes[place.col]
    if not 1 <= count <= _MOST_COLUMNS:
        raise GridError(f"{what}: {count} maps along {place.col!r}; a figure shows 1 to {_MOST_COLUMNS}: select some")
    return [da.isel({place.col: [at]}) for at in range(count)]


def _step_title(step: xr.DataArray, col: str, number: int) -> str:
    years = years_of(step, what="map") if find_dimension(step, "time") == col else None
    if years:
        return f"{years[0]}"
    for name in (f"{col}_name", col):
        if name in step.coords:
            value = step[name].values[0]
            return str(value) if name != col or isinstance(value, str) else f"{col} {value}"
    return f"{col} {number}"


def _scale(pictures: Sequence[NDArray[Any]]) -> dict[str, Any]:
    """Colours of amounts: from 0 to 1, or the range of the values where some lie outside of that."""
    known = np.concatenate([values[np.isfinite(values)] for values in pictures])
    low, high = (0.0, 1.0) if _are_shares(known) else (float(known.min()), float(known.max()))
    return {"cmap": "cividis", "vmin": low, "vmax": high}


def _label(da: xr.DataArray, label: str | None) -> str:
    """Say what a colour bar shows."""
    if label is not None:
        return label
    name, units = "" if da.name is None else str(da.name), str(da.attrs.get("units", "1"))
    # what is left of class codes after arithmetic still has their attributes
    shown = name if "flag_values" in da.attrs else str(da.attrs.get("long_name") or name)
    return shown + ("" if units in ("", "1") else f" [{units}]")


class _Palette(NamedTuple):
    """Codes that a map may hold, in ascending order, and the colour of each by its name."""

    codes: NDArray[Any]
    colors: dict[str, str]


_CLASSES = _Palette(np.arange(len(CLASSES)), {each.long_name: each.color for each in CLASSES})


def _palette(da: xr.DataArray, classes: bool) -> _Palette | None:
    """Return the colours of the classes, or those that a map of other codes declares; None for amounts."""
    if not classes:
        return None
    values = np.ravel(da.attrs.get("flag_values", []))
    names, fills = (str(da.attrs.get(f"flag_{key}", "")).split() for key in ("meanings", "colors"))
    if set(names) <= set(CLASS_NAMES) or not values.size == len(names) == len(fills):
        return _CLASSES
    order = np.argsort(values)
    return _Palette(values[order], {names[at].replace("_", " "): fills[at] for at in order})


def _are_classes(data: xr.DataArray) -> bool:
    """Whether a map that has been read holds class codes rather than amounts."""
    if data.name in ("confidence", "probability") or data.dtype.kind == "b":
        return False
    if data.dtype.kind != "f":
        return True
    known = data.values[np.isfinite(data.values)]
    whole = bool((known == np.trunc(known)).all())
    if "flag_values" in data.attrs or data.name == "land_use":
        return whole or not _are_shares(known)  # of shares of a class, xarray keeps the attributes of the codes
    return whole and not _are_shares(known) and bool((known >= 0).all() and (known < len(CLASSES)).all())


def _are_shares(known: NDArray[Any]) -> bool:
    slack = 1e-6  # sums of float32
    return not known.size or bool(known.min() >= -slack and known.max() <= 1 + slack)


def _paint_codes(
    ax: Axes, view: _View, codes: NDArray[np.uint8], palette: _Palette, title: str | None
) -> dict[str, str]:
    """Draw codes; return the names and colours of those that occur."""
    from matplotlib.colors import to_rgba

    fills = np.array([*map(to_rgba, palette.colors.values()), (0, 0, 0, 0)], dtype=np.float64)
    _paint(ax, fills[np.minimum(codes, len(fills) - 1)], view, title)
    present = set(np.unique(codes).tolist())
    return {name: fill for at, (name, fill) in enumerate(palette.colors.items()) if at in present}


def _codes(data: xr.DataArray, what: str, palette: _Palette = _CLASSES) -> NDArray[np.uint8]:
    """Return the positions of codes in a palette, and for NaN the number of the transparent colour."""
    values = data.values
    missing = np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, dtype=bool)
    if palette is not _CLASSES:
        at = np.minimum(np.searchsorted(palette.codes, values), palette.codes.size - 1)
        wrong = (palette.codes[at] != values) & ~missing
        if wrong.any():
            said = ", ".join(map(str, palette.codes))
            raise VocabularyError(f"the {what} holds {int(wrong.sum())} values that are not of its flag_values: {said}")
        return np.where(missing, np.uint8(_BLANK), at.astype(np.uint8))
    codes = check_codes(
        np.where(missing, values.dtype.type(OCEAN), values),
        what=what,
        latitude=data["lat"].values,
        longitude=data["lon"].values,
        remedy="translate other legends with xland.vocabulary.translate, draw probabilities with confidence_map",
    )
    return np.where(missing, np.uint8(_BLANK), codes)


class _Place(NamedTuple):
    """Where to draw: axes that are given, or a new figure; with ``col``, one of several axes, ``wrap`` in a row."""

    ax: Any = None
    figsize: tuple[float, float] | None = None
    coastlines: bool = False
    transform: Any = None
    col: str | None = None
    wrap: int = 1


def _plate_carree(middle: float = 0.0) -> Any:
    """Return the projection of degrees of cartopy."""
    try:
        from cartopy.crs import PlateCarree
    except ImportError as error:
        raise MissingDependencyError("coastlines need the package cartopy, which is missing: install it") from error
    return PlateCarree(middle)


def _panels(place: _Place, grid: Grid, count: int) -> NDArray[Any]:
    """Return axes of a new figure, (rows, columns), in which so many maps have their place."""
    import matplotlib.pyplot as plt

    across, down = min(place.wrap, count), -(-count // place.wrap)
    single, panels = (10, 10 * _height(grid) + 1.4), (4.5 * across, 4.5 * down * _height(grid) + 1.4)
    usual = single if place.col is None else panels
    given = usual if place.figsize is None else items_of(place.figsize, "figsize", GridError)
    hint = tuple[Positive, Positive]
    if not fits(given, hint):
        raise GridError(refusal("figsize", place.figsize, hint))
    how = {"projection": _plate_carree((grid.west + grid.east) / 2)} if place.coastlines else {}
    _, axes = plt.subplots(down, across, figsize=tuple(given), squeeze=False, layout="constrained", subplot_kw=how)
    for number, ax in enumerate(axes.ravel()):
        if number < count:
            _axes(place._replace(ax=ax, figsize=None), grid)
        else:
            ax.set_axis_off()
    return np.asarray(axes)


def _axes(place: _Place, grid: Grid) -> Axes:
    """Return the axes to draw on, with limits that show the grid; :class:`GridError` if they cannot."""
    from matplotlib.axes import Axes

    if place.ax is None:
        return _panels(place, grid, 1)[0, 0]
    if place.figsize is not None:
        raise GridError("figsize is that of a new figure: leave it out, or leave out ax")
    ax: Any = place.ax
    if not isinstance(ax, Axes):
        raise GridError(f"ax must be Axes of matplotlib, or None for a new figure, not {shown(ax)}")
    projection = getattr(ax, "projection", None)
    if projection is None and ax.name != "rectilinear":
        raise GridError(f"ax are {ax.name!r} axes, which do not show degrees; pass plain axes, or axes of cartopy")
    if projection is None and (place.coastlines or place.transform is not None):
        raise GridError(
            "coastlines and transform need axes of cartopy: leave out ax, or make them with "
            "subplot_kw={'projection': cartopy.crs.PlateCarree()}"
        )
    if place.transform is not None and type(place.transform).__name__ != "PlateCarree":
        raise GridError(f"maps are in degrees: transform is PlateCarree, or is left out, not {shown(place.transform)}")
    if projection is None:
        ax.set(xlim=(grid.west, grid.east), ylim=(grid.south, grid.north))
        return ax
    middle, half = (grid.west + grid.east) / 2, (grid.east - grid.west) / 2
    globe: Any = ax  # axes of cartopy
    try:
        if half < 180:
            globe.set_extent((-half, half, grid.south, grid.north), crs=_plate_carree(middle))
        else:
            globe.set_global()
        if place.coastlines:
            globe.coastlines(linewidth=0.6)
    except ValueError as error:
        raise GridError(f"the projection of the axes does not show the map ({grid}): choose another one") from error
    return ax


def stretch(grid: Grid) -> float:
    """Return how much longer a degree of latitude is drawn than one of longitude, at most twice; 1 for the world."""
    if grid.east - grid.west > 180:
        return 1.0
    return float(1 / max(np.cos(np.deg2rad((grid.south + grid.north) / 2)), 0.5))


def _height(grid: Grid) -> float:
    """Return the height of a map as a multiple of its width, kept within what a page can hold."""
    return min(max(stretch(grid) * grid.rows / grid.columns, 0.3), 1.6)


def _paint(ax: Axes, picture: NDArray[Any], view: _View, title: str | None, **how: Any) -> Any:
    """Draw an image of a map on axes that have their limits, and give them a title."""
    if title:
        ax.set_title(title)
    west, east, south, north = view.extent
    if getattr(ax, "projection", None) is not None:
        # counted from the middle, no longitude is more than half the globe away
        middle = (view.grid.west + view.grid.east) / 2
        how |= {"extent": (west - middle, east - middle, south, north), "transform": _plate_carree(middle)}
        return ax.imshow(picture, origin="upper", interpolation="nearest", **how)
    aspect = stretch(view.grid)
    image = ax.imshow(picture, extent=view.extent, origin="upper", interpolation="nearest", aspect=aspect, **how)
    ax.set(xlim=(view.grid.west, view.grid.east), ylim=(view.grid.south, view.grid.north))
    ax.xaxis.set_major_formatter(lambda value, _: degrees((value + 180) % 360 - 180, "E", "W"))
    ax.yaxis.set_major_formatter(lambda value, _: degrees(value, "N", "S"))
    ax.tick_params(labelsize="small")
    return image


def indexed_png(indices: NDArray[np.uint8], colors: Sequence[str]) -> bytes:
    """Return a picture as PNG whose pixels are positions in a list of up to 256 colours, ``#rrggbb`` or ``#rrggbbaa``.

    Class maps have few colours, so it is several times smaller than one of RGB values.
    """
    from PIL import Image

    palette = [bytes.fromhex(color.lstrip("#").ljust(8, "f")) for color in colors]
    picture = Image.fromarray(indices, "P")
    picture.putpalette(b"".join(color[:3] for color in palette))
    file = io.BytesIO()
    picture.save(file, "png", optimize=True, transparency=bytes(color[3] for color in palette))
    return file.getvalue()


def degrees(value: float, positive: str, negative: str) -> str:
    """Return a latitude or longitude in words."""
    side = positive if value > 0 else negative if value < 0 else ""
    return f"{abs(round(value, 6)):g}°{side}"


def _explain(drawing: Axes | Figure, entries: Mapping[str, str], fontsize: str = "small") -> None:
    """Name the colours below axes or below a figure."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    patches = [Patch(facecolor=fill, edgecolor="0.5", linewidth=0.4, label=name) for name, fill in entries.items()]
    how: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "borderaxespad": 2.8, "ncols": 3}
    if isinstance(drawing, Figure):
        how = {"loc": "outside lower center", "ncols": min(5, len(entries))}
    drawing.legend(handles=patches, frameon=False, fontsize=fontsize, **how)
