from __future__ import annotations

import dask.array as da
import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from xarray.backends import BackendArray
from xarray.core import indexing

from tests.scores import maps
from tests.scores.maps import turned
from xland import plot
from xland.errors import GridError, RegionError, VocabularyError
from xland.vocabulary import CLASSES


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
