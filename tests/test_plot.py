from __future__ import annotations

import sys
from types import ModuleType

import dask.array as da
import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from xarray.backends import BackendArray
from xarray.core import indexing

import xland  # noqa: F401 - registers the accessor
from tests.scores import maps
from tests.scores.maps import turned
from xland import plot
from xland.errors import GridError, MissingDependencyError, RegionError, VocabularyError
from xland.vocabulary import CLASSES, flag_attributes


@pytest.fixture(autouse=True)
def no_windows():
    import matplotlib.pyplot as plt

    plt.close("all")
    with mpl.rc_context({"backend": "agg", "figure.dpi": 50}):
        yield
    plt.close("all")


def on_grid(values, resolution=1.0, north=50.0, west=0.0):
    return maps.on_grid(values, resolution, north, west)


@pytest.fixture
def codes():
    return np.arange(64, dtype=np.uint8).reshape(8, 8) % 8


def shows(ax, lon, lat, color):
    """Whether this colour is really drawn at a place: read back from the rendered figure."""
    figure = ax.figure
    if figure.stale:
        figure.canvas.draw()
    picture = np.asarray(figure.canvas.buffer_rgba())
    x, y = ax.transData.transform((lon, lat))
    drawn = picture[round(picture.shape[0] - y), round(x), :3] / 255
    return np.abs(drawn - to_rgb(color)).max() < 0.01


def shows_classes(ax, values):
    places = [(0, 0), (0, 7), (3, 2), (7, 5)]
    return all(shows(ax, column + 0.5, 49.5 - row, CLASSES[values[row, column]].color) for row, column in places)


def legend_of(ax):
    return [each.get_text() for each in ax.get_legend().get_texts()]


def test_every_class_has_its_colour_at_its_place_and_the_legend_names_those_that_occur(codes):
    ax = plot.land_use_map(on_grid(codes), title="classes")
    assert shows_classes(ax, codes)
    assert ax.get_title() == "classes"
    assert legend_of(ax) == [each.long_name for each in CLASSES]
    forest = on_grid(np.full((4, 4), 4, dtype=np.uint8))
    assert legend_of(plot.land_use_map(forest)) == ["forest"]
    assert plot.land_use_map(forest, legend=False).get_legend() is None


def test_a_map_may_have_any_order_and_names_and_is_titled_with_its_year(codes):
    ax = plot.land_use_map(turned(on_grid(codes)).expand_dims(time=[2015], axis=1))
    assert shows_classes(ax, codes)
    assert ax.get_title() == "2015"
    dated = on_grid(codes).assign_coords(time=np.datetime64("2019-07-01"))
    assert plot.land_use_map(dated).get_title() == "2019"


def test_axes_of_the_caller_are_used_without_pyplot_and_ticks_are_degrees(codes):
    import matplotlib.pyplot as plt

    own = Figure().subplots()
    assert plot.land_use_map(on_grid(codes, north=4.0, west=176.0), own) is own
    assert not plt.get_fignums()
    text = own.xaxis.get_major_formatter()
    assert [text(178, 0), text(180, 0), text(182.5, 0), text(0, 0)] == ["178°E", "180°W", "177.5°W", "0°"]
    assert own.yaxis.get_major_formatter()(-3, 0) == "3°S"


@pytest.mark.parametrize("shape", [(1800, 3600), (1799, 3601)])
def test_large_maps_are_thinned_and_stay_in_place(shape):
    values = np.full(shape, 4, dtype=np.uint8)
    values[:, shape[1] // 2 :] = 1
    world = on_grid(da.from_array(values, chunks=600), 0.05, 80.0, -100.0)
    ax = plot.land_use_map(world, max_pixels=10_000)
    (image,) = ax.get_images()
    assert np.prod(image.get_array().shape[:2]) <= 10_500
    assert ax.get_xlim() == pytest.approx((-100, -100 + shape[1] * 0.05))
    middle = -100 + (shape[1] // 2) * 0.05
    assert shows(ax, middle - 4, 30, CLASSES[4].color)
    assert shows(ax, middle + 4, 30, CLASSES[1].color)


def test_plotting_reads_only_what_it_draws():
    read = []

    class Stored(BackendArray):
        shape, dtype = (900, 1800), np.dtype(np.uint8)

        def __getitem__(self, key):
            return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self.read)

        def read(self, key):
            part = np.full(self.shape, 4, self.dtype)[key]
            read.append(part.size)
            return part

    grid = on_grid(np.zeros(Stored.shape, np.uint8), 0.05)
    world = xr.DataArray(xr.Variable(("lat", "lon"), indexing.LazilyIndexedArray(Stored())), grid.coords)
    plot.land_use_map(world, max_pixels=1000)
    assert 900 < sum(read) < 1100


def test_confidence_is_drawn_from_0_to_1():
    values = np.full((8, 8), np.nan)
    values[2, 3] = 1.0
    ax = plot.confidence_map(on_grid(values), title="confidence")
    assert shows(ax, 3.5, 47.5, mpl.colormaps["cividis"](1.0))
    assert shows(ax, 0.5, 47.5, "white")
    assert len(ax.figure.axes) == 2  # the colour bar
    assert len(plot.confidence_map(on_grid(values), colorbar=False).figure.axes) == 1


def test_cells_without_data_are_blank_and_their_classes_not_in_the_legend(codes):
    values = on_grid(codes.astype("float32")).where(on_grid(codes) != 4)
    ax = plot.land_use_map(values)
    assert "forest" not in legend_of(ax)
    row, column = np.argwhere(codes == 4)[0]
    for each in (ax, plot.difference(values, on_grid(codes)), plot.side_by_side({"a": values}).axes[0]):
        assert shows(each, column + 0.5, 49.5 - row, "white")


def test_differences_are_found_by_label_in_a_larger_observed_map(codes):
    world = on_grid(np.zeros((180, 360), dtype=np.uint8), north=90.0, west=-180.0)
    world[40:48, 356:], world[40:48, :4] = codes[:, :4], codes[:, 4:]
    predicted = codes.copy()
    predicted[3, 3] = 1 if codes[3, 3] != 1 else 2
    part = on_grid(predicted, west=176.0)  # passes the date line
    ax = plot.difference(part, world, title="differs")
    colors = {1: plot.AGREE, 3: plot.DISAGREE, 6: plot.AGREE, 0: CLASSES[0].color}
    assert all(shows(ax, 176.5 + column, 46.5, color) for column, color in colors.items())
    with pytest.raises(GridError, match="lacks cells of the predicted one"):
        plot.difference(world, part)


def test_side_by_side_draws_every_map_and_its_differences_without_pyplot(codes, tmp_path):
    import matplotlib.pyplot as plt

    path = tmp_path / "maps.png"
    given = {"observed": on_grid(codes), "model": on_grid(np.flipud(codes)), "mode": on_grid(codes)}
    figure = plot.side_by_side(given, observed="observed", title="All", path=path, dpi=50)
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert titles == ["observed", "model", "mode", "model: where it differs", "mode: where it differs"]
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [each.name for each in tmp_path.iterdir()] == ["maps.png"]
    assert not plt.get_fignums()
    assert figure._repr_png_().startswith(b"\x89PNG"), "a notebook shows it"
    assert shows_classes(figure.axes[0], codes)
    assert [each.get_text() for each in figure.legends[0].get_texts()][-2:] == ["same class", "another class"]
    rows = plot.side_by_side({str(i): on_grid(codes) for i in range(4)})
    assert [ax.get_title() for ax in rows.axes] == ["0", "1", "2", "3", "", ""]
    with pytest.raises(GridError, match="nothing to draw"):
        plot.side_by_side({})
    with pytest.raises(GridError, match="no map 'truth'"):
        plot.side_by_side({"a": on_grid(codes)}, observed="truth")


def test_what_is_not_a_map_of_classes_is_refused_by_name(codes):
    with pytest.raises(
        VocabularyError,
        match=r"map holds unknown class codes 0.5 \(64 cells\), the first at 49.5 N, 0.5 E.*confidence_map",
    ):
        plot.land_use_map(on_grid(np.full((8, 8), 0.5)))
    assert mpl.pyplot.get_fignums() == []
    with pytest.raises(GridError, match=r"several steps along time \(2\)"):
        plot.land_use_map(on_grid(codes).expand_dims(time=[2014, 2015]))
    with pytest.raises((GridError, RegionError)):
        plot.land_use_map(on_grid(codes).isel(lat=slice(0, 0)))


# axes of cartopy, several maps, other legends


class Projected(mpl.axes.Axes):
    """Axes as cartopy has them: with a projection, limits in metres, and images that are brought into it."""

    name = "projected"
    projection = "some projection"

    def set_extent(self, extent, crs):
        self.extent, self.crs = extent, crs

    def set_global(self):
        self.extent = "global"

    def imshow(self, picture, *, transform=None, **how):
        self.transform = transform
        return super().imshow(picture, **how)

    def coastlines(self, **how):
        self.has_coastlines = True


class PlateCarree:
    def __init__(self, middle=0.0):
        self.middle = middle


@pytest.fixture
def cartopy(monkeypatch):
    """What xland uses of cartopy."""
    package, crs = ModuleType("cartopy"), ModuleType("cartopy.crs")
    crs.PlateCarree = package.crs = PlateCarree
    monkeypatch.setitem(sys.modules, "cartopy", package)
    monkeypatch.setitem(sys.modules, "cartopy.crs", crs)


@pytest.mark.usefixtures("cartopy")
@pytest.mark.parametrize("west", [0.0, 176.0])
def test_on_axes_with_a_projection_degrees_are_not_taken_for_metres(codes, west):
    ax = Projected(Figure(), (0, 0, 1, 1))
    plot.land_use_map(on_grid(codes, west=west), ax, transform=PlateCarree())
    assert isinstance(ax.transform, PlateCarree)
    assert ax.transform.middle == ax.crs.middle == west + 4
    assert ax.extent == (-4, 4, 42, 50)
    assert tuple(ax.get_images()[0].get_extent()) == (-4, 4, 42, 50)
    assert ax.get_legend() is not None
    assert not hasattr(ax, "has_coastlines")
    world = Projected(Figure(), (0, 0, 1, 1))
    plot.draw(on_grid(np.zeros((18, 36), np.uint8), 10.0, 90.0, -180.0), world, coastlines=True)
    assert world.extent == "global"
    assert world.has_coastlines


def test_a_map_is_drawn_at_its_place_in_the_projections_of_cartopy(codes):
    crs = pytest.importorskip("cartopy.crs")
    import matplotlib.pyplot as plt

    for projection in (crs.PlateCarree(), crs.Robinson(), crs.LambertConformal(4, 46)):
        _, ax = plt.subplots(subplot_kw={"projection": projection})
        on_grid(codes).ai4land.plot(ax=ax, legend=False)
        for row, column in ((0, 0), (3, 2), (7, 5)):
            x, y = projection.transform_point(column + 0.5, 49.5 - row, crs.PlateCarree())
            assert shows(ax, x, y, CLASSES[codes[row, column]].color), (projection, row, column)
    _, away = plt.subplots(subplot_kw={"projection": crs.Orthographic(-120, -60)})
    with pytest.raises(GridError, match="the projection of the axes does not show the map"):
        on_grid(codes).ai4land.plot(ax=away)
    date_line = on_grid(codes, west=176.0)
    _, ax = plt.subplots(subplot_kw={"projection": crs.PlateCarree(180)})
    date_line.ai4land.plot(ax=ax)
    assert shows(ax, -4 + 5.5, 49.5 - 7, CLASSES[codes[7, 5]].color)


def test_axes_that_cannot_show_degrees_are_refused_by_name(codes, monkeypatch):
    import matplotlib.pyplot as plt

    field = on_grid(codes)
    for kind in ("mollweide", "polar"):
        with pytest.raises(GridError, match=f"ax are '{kind}' axes, which do not show degrees"):
            field.ai4land.plot(ax=plt.subplots(subplot_kw={"projection": kind})[1])
    plain = plt.subplots()[1]
    for wrong, message in (
        ({"transform": PlateCarree()}, "transform need axes of cartopy"),
        ({"coastlines": True}, "coastlines and transform need axes of cartopy"),
        ({"figsize": (4, 3)}, "figsize is that of a new figure"),
        ({"col": "time"}, r"unknown dimension 'time'\. Known are lat, lon|leave out ax"),
    ):
        with pytest.raises(GridError, match=message):
            field.ai4land.plot(ax=plain, **wrong)
    with pytest.raises(GridError, match="maps are in degrees: transform is PlateCarree"):
        field.ai4land.plot(ax=Projected(Figure(), (0, 0, 1, 1)), transform=plain.transAxes)
    with pytest.raises(GridError, match="figsize must be a list of 2 entries"):
        field.ai4land.plot(figsize=(4, -3))
    monkeypatch.setitem(sys.modules, "cartopy.crs", None)
    with pytest.raises(MissingDependencyError, match="coastlines need the package cartopy, which is missing"):
        field.ai4land.plot(coastlines=True)


def test_the_size_of_a_figure_can_be_chosen(codes):
    assert on_grid(codes).ai4land.plot(figsize=(4, 3)).figure.get_size_inches().tolist() == [4, 3]
    series = on_grid(codes).expand_dims(time=[2015, 2050])
    assert series.ai4land.plot(col="time", figsize=(6, 2))[0, 0].figure.get_size_inches().tolist() == [6, 2]


def test_several_years_are_drawn_side_by_side_with_one_legend(codes):
    import matplotlib.pyplot as plt

    years = xr.concat([on_grid(codes), on_grid(np.fliplr(codes)), on_grid(codes), on_grid(codes)], "time")
    years = years.assign_coords(time=np.array(["2015", "2050", "2075", "2100"], dtype="datetime64[s]"))
    axes = years.rename("land_use").to_dataset().ai4land.plot(col="time", title="SSP2-4.5")
    assert axes.shape == (2, 3)
    assert [ax.get_title() for ax in axes.ravel()] == ["2015", "2050", "2075", "2100", "", ""]
    assert shows_classes(axes[0, 0], codes)
    assert shows_classes(axes[0, 1], np.fliplr(codes))
    (figure,) = map(plt.figure, plt.get_fignums())
    assert [each.get_text() for each in figure.legends[0].get_texts()] == [each.long_name for each in CLASSES]
    assert not any(ax.get_legend() for ax in axes.ravel())
    with pytest.raises(GridError, match=r"unknown dimension 'tim': did you mean 'time'\?"):
        years.ai4land.plot(col="tim")
    with pytest.raises(GridError, match=r"0 maps along 'time'; a figure shows 1 to 48"):
        years.isel(time=[]).ai4land.plot(col="time")


def test_amounts_side_by_side_have_one_scale_and_the_names_of_their_classes():
    values = np.linspace(0, 1, 128).reshape(2, 8, 8)
    both = on_grid(values).rename("probability").assign_coords(class_name=("class", ["forest", "urban"]))
    axes = both.ai4land.plot(col="class")
    assert [ax.get_title() for ax in axes.ravel()] == ["forest", "urban"]
    assert {ax.get_images()[0].get_clim() for ax in axes.ravel()} == {(0, 1)}
    assert [ax.get_ylabel() for ax in axes[0, 0].figure.axes[2:]] == ["probability"]


def test_gains_and_losses_are_drawn_in_their_own_colours(codes):
    change = on_grid(codes).ai4land.compare(on_grid(np.fliplr(codes)))["change"].sel(class_name="forest")
    ax = change.ai4land.plot()
    assert legend_of(ax) == ["lost", "same", "gained"]
    gained = np.argwhere((np.fliplr(codes) == 4) & (codes != 4))[0]
    assert shows(ax, gained[1] + 0.5, 49.5 - gained[0], change.attrs["flag_colors"].split()[2])
    with pytest.raises(VocabularyError, match=r"64 values that are not of its flag_values: -1, 0, 1"):
        (change + np.int8(5)).assign_attrs(change.attrs).ai4land.plot()


def test_the_plot_of_xarray_and_hvplot_take_the_colours_of_a_map(codes):
    """As the page on notebooks shows."""
    lazy = on_grid(codes).assign_attrs(flag_attributes())
    colors = lazy.attrs["flag_colors"].split()
    mesh = lazy.plot(levels=np.arange(9) - 0.5, colors=colors)
    assert shows(mesh.axes, 3.5, 49.5, CLASSES[codes[0, 3]].color)
    pytest.importorskip("hvplot.xarray")
    holoviews = pytest.importorskip("holoviews")
    image = lazy.rename("land_use").hvplot.image(x="lon", y="lat", cmap=colors, clim=(-0.5, 7.5))
    drawn = holoviews.renderer("bokeh").get_plot(image).handles["color_mapper"]
    assert [*drawn.palette] == colors
    assert (drawn.low, drawn.high) == (-0.5, 7.5)
