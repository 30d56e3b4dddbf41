from __future__ import annotations

import dask.array as da
import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from xland import plot
from xland.errors import GridError, RegionError, VocabularyError
from xland.geo.grid import Grid
from xland.vocabulary import CLASSES


@pytest.fixture(autouse=True)
def no_windows():
    import matplotlib.pyplot as plt

    plt.close("all")
    with mpl.rc_context({"backend": "agg", "figure.dpi": 50}):
        yield
    plt.close("all")


def on_grid(values, resolution=1.0, north=50.0, west=0.0):
    grid = Grid(resolution, north, west, *values.shape)
    return xr.DataArray(values, {"lat": grid.latitude, "lon": grid.longitude}, ("lat", "lon"))


def color_at(ax, lon, lat):
    """Colour that is really drawn at a place, read back from the rendered figure."""
    figure = ax.figure
    if figure.stale:
        figure.canvas.draw()
    picture = np.asarray(figure.canvas.buffer_rgba())
    x, y = ax.transData.transform((lon, lat))
    return picture[round(picture.shape[0] - y), round(x), :3] / 255


@pytest.fixture
def codes():
    return np.arange(64, dtype=np.uint8).reshape(8, 8) % 8


def assert_shows(ax, values, north=50.0, west=0.0):
    for row, column in [(0, 0), (0, 7), (3, 2), (7, 5)]:
        drawn = color_at(ax, west + column + 0.5, north - row - 0.5)
        np.testing.assert_allclose(drawn, to_rgb(CLASSES[values[row, column]].color), atol=0.01)


def test_every_class_has_its_colour_at_its_place(codes):
    ax = plot.land_use_map(on_grid(codes), title="classes")
    assert_shows(ax, codes)
    assert ax.get_title() == "classes"
    assert [each.get_text() for each in ax.get_legend().get_texts()] == [each.long_name for each in CLASSES]


def test_the_caller_may_hold_the_map_in_any_order_and_under_any_names(codes):
    turned = on_grid(codes).isel(lat=slice(None, None, -1)).rename(lat="latitude", lon="longitude")
    turned = turned.expand_dims(time=[2015]).transpose("longitude", "time", "latitude")
    ax = plot.land_use_map(turned)
    assert_shows(ax, codes)
    assert ax.get_title() == "2015"


def test_the_legend_names_only_classes_that_occur():
    ax = plot.land_use_map(on_grid(np.full((4, 4), 4, dtype=np.uint8)))
    assert [each.get_text() for each in ax.get_legend().get_texts()] == ["forest"]
    ax = plot.land_use_map(on_grid(np.full((4, 4), 4, dtype=np.uint8)), legend=False)
    assert ax.get_legend() is None


def test_axes_of_the_caller_are_used_without_pyplot(codes):
    import matplotlib.pyplot as plt

    own = Figure().subplots()
    assert plot.land_use_map(on_grid(codes), own) is own
    assert not plt.get_fignums()


def test_ticks_are_degrees_east_and_north(codes):
    ax = plot.land_use_map(on_grid(codes, north=4.0, west=176.0))
    text = ax.xaxis.get_major_formatter()
    assert [text(178, 0), text(180, 0), text(182.5, 0), text(0, 0)] == ["178°E", "180°W", "177.5°W", "0°"]
    assert ax.yaxis.get_major_formatter()(-3, 0) == "3°S"


def test_a_dated_map_is_titled_with_its_year(codes):
    dated = on_grid(codes).assign_coords(time=np.datetime64("2019-07-01"))
    assert plot.land_use_map(dated).get_title() == "2019"


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
    np.testing.assert_allclose(color_at(ax, middle - 4, 30), to_rgb(CLASSES[4].color), atol=0.01)
    np.testing.assert_allclose(color_at(ax, middle + 4, 30), to_rgb(CLASSES[1].color), atol=0.01)


def test_confidence_is_drawn_from_0_to_1(codes):
    values = np.full((8, 8), np.nan)
    values[2, 3] = 1.0
    ax = plot.confidence_map(on_grid(values), title="confidence")
    np.testing.assert_allclose(color_at(ax, 3.5, 47.5), mpl.colormaps["cividis"](1.0)[:3], atol=0.01)
    np.testing.assert_allclose(color_at(ax, 0.5, 47.5), (1, 1, 1), atol=0.01)
    assert len(ax.figure.axes) == 2  # the colour bar
    assert len(plot.confidence_map(on_grid(values), colorbar=False).figure.axes) == 1


def test_differences_show_where_the_class_is_another(codes):
    observed = codes.copy()
    predicted = codes.copy()
    predicted[3, 3] = 1 if codes[3, 3] != 1 else 2
    ax = plot.difference(on_grid(predicted), on_grid(observed), title="differs")
    np.testing.assert_allclose(color_at(ax, 3.5, 46.5), to_rgb(plot.DISAGREE), atol=0.01)
    np.testing.assert_allclose(color_at(ax, 4.5, 46.5), to_rgb(plot.AGREE), atol=0.01)
    np.testing.assert_allclose(color_at(ax, 0.5, 46.5), to_rgb(CLASSES[0].color), atol=0.01)


def test_cells_without_data_are_blank_and_their_classes_not_in_the_legend(codes):
    values = on_grid(codes.astype("float32")).where(on_grid(codes) != 4)
    ax = plot.land_use_map(values)
    row, column = np.argwhere(codes == 4)[0]
    np.testing.assert_allclose(color_at(ax, column + 0.5, 49.5 - row), (1, 1, 1), atol=0.01)
    assert "forest" not in [each.get_text() for each in ax.get_legend().get_texts()]
    below = plot.difference(values, on_grid(codes))
    np.testing.assert_allclose(color_at(below, column + 0.5, 49.5 - row), (1, 1, 1), atol=0.01)
    figure = plot.side_by_side({"a": values})
    np.testing.assert_allclose(color_at(figure.axes[0], column + 0.5, 49.5 - row), (1, 1, 1), atol=0.01)


def test_differences_are_found_by_label_in_a_larger_observed_map(codes):
    world = on_grid(np.zeros((180, 360), dtype=np.uint8), north=90.0, west=-180.0)
    world[40:48, 356:] = codes[:, :4]
    world[40:48, :4] = codes[:, 4:]
    part = on_grid(codes, west=176.0)  # passes the date line
    ax = plot.difference(part, world)
    for column in (1, 6):
        np.testing.assert_allclose(color_at(ax, 176.5 + column, 46.5), to_rgb(plot.AGREE), atol=0.01)
    with pytest.raises(GridError, match="lacks cells of the predicted one"):
        plot.difference(world, part)


def test_side_by_side_draws_every_map_and_its_differences_without_pyplot(codes, tmp_path):
    import matplotlib.pyplot as plt

    path = tmp_path / "maps.png"
    maps = {"observed": on_grid(codes), "model": on_grid(np.flipud(codes)), "mode": on_grid(codes)}
    figure = plot.side_by_side(maps, observed="observed", title="All", path=path, dpi=50)
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert titles == ["observed", "model", "mode", "model: where it differs", "mode: where it differs"]
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [each.name for each in tmp_path.iterdir()] == ["maps.png"]
    assert not plt.get_fignums()
    assert_shows(figure.axes[0], codes)
    legend = [each.get_text() for each in figure.legends[0].get_texts()]
    assert legend[-2:] == ["same class", "another class"]


def test_side_by_side_without_an_observed_map_fills_rows(codes):
    figure = plot.side_by_side({str(i): on_grid(codes) for i in range(4)})
    assert [ax.get_title() for ax in figure.axes] == ["0", "1", "2", "3", "", ""]
    with pytest.raises(GridError, match="nothing to draw"):
        plot.side_by_side({})
    with pytest.raises(GridError, match="no map 'truth'"):
        plot.side_by_side({"a": on_grid(codes)}, observed="truth")


def test_what_is_no_map_of_classes_is_refused_by_name(codes):
    with pytest.raises(
        VocabularyError,
        match=r"map holds unknown class codes 0.5 \(64 cells\), the first at 49.5 N, 0.5 E.*confidence_map",
    ):
        plot.land_use_map(on_grid(np.full((8, 8), 0.5)))
    with pytest.raises(GridError, match=r"several steps along time \(2\)"):
        plot.land_use_map(on_grid(codes).expand_dims(time=[2014, 2015]))
    with pytest.raises((GridError, RegionError)):
        plot.land_use_map(on_grid(codes).isel(lat=slice(0, 0)))
