from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.untrusted.maps import maps
from xland.catalogs import open_entry
from xland.errors import StoreError
from xland.sources.files import open_coarse
from xland.sources.observed import open_map
from xland.untrusted.netcdf import check_file

h5py = pytest.importorskip("h5py")


@pytest.fixture(scope="module", params=["h5netcdf", "netcdf4", "scipy"])
def made(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("made") / "m.nc"
    maps().to_netcdf(path, engine=request.param)
    return path


def entry(path):
    catalog = path.with_name("c.yaml")
    catalog.write_text(f"sources: {{m: {{driver: netcdf, args: {{urlpath: {path.name}}}}}}}")
    return open_entry(catalog, "m")


def test_files_of_every_library_are_opened(made):
    assert check_file(made, stranger=True)["engine"] in ("h5netcdf", "scipy")
    with entry(made) as found:
        xr.testing.assert_equal(found.load(), maps())


def virtual(file, secret):
    layout = h5py.VirtualLayout((6, 8), "u1")
    layout[:] = h5py.VirtualSource(secret, "land_use", (6, 8))
    file.create_virtual_dataset("more", layout)


CHANGES = {
    "values in another file": lambda f, secret: f.create_dataset("more", (2, 8), "u1", external=[(secret, 0, 16)]),
    "is a link to elsewhere": lambda f, secret: f.__setitem__("more", h5py.ExternalLink(secret, "/land_use")),
    "values from other files": virtual,
    "two places": lambda f, _: f.create_group("a").__setitem__("b", f["/"]),
    "filter 32000": lambda f, _: f.create_dataset("more", (8,), "i4", chunks=(4,), compression="lzf"),
    "type of its own": lambda f, _: f.create_dataset("more", (3,), h5py.ref_dtype),
    "has a type of its own": lambda f, _: f.create_dataset("more", (3,), h5py.vlen_dtype(np.int32)),
    "is a type of its own": lambda f, _: f.__setitem__("more", np.dtype([("a", "i4")])),
    "attribute 'more' has a type of its own": lambda f, _: f["land_use"].attrs.__setitem__("more", f["lat"].ref),
    "coordinate of 8589934592 cells": lambda f, _: f.create_dataset("more", (2**33,), "f8", chunks=(2**20,)).make_scale(
        "more"
    ),
    "chunks": lambda f, _: f.create_dataset("more", (2**22, 2**22), "u1", chunks=(1, 1)),
}


@pytest.mark.parametrize("named", CHANGES)
def test_a_file_that_leads_out_of_itself_or_costs_too_much_is_refused(tmp_path, named):
    file = tmp_path / "m.nc"
    maps().to_netcdf(file, engine="netcdf4")
    secret = tmp_path.parent / f"{tmp_path.name}-secret.nc"
    secret.write_bytes(b"TOP-SECRET-0123456789")
    with h5py.File(file, "a") as opened:
        CHANGES[named](opened, str(secret))
    with pytest.raises(StoreError, match=named):
        entry(file)


def test_what_is_not_netcdf_is_named(tmp_path):
    os.mkfifo(tmp_path / "pipe.nc")
    (tmp_path / "text.nc").write_text("nothing")
    maps().to_netcdf(tmp_path / "short.nc", engine="scipy")
    (tmp_path / "short.nc").write_bytes((tmp_path / "short.nc").read_bytes()[:-100])
    for name in ("pipe.nc", "text.nc", "none.nc", ".", "short.nc"):
        with pytest.raises(StoreError, match="cannot be read as NetCDF"):
            check_file(tmp_path / name, stranger=True)


@given(data=st.data())
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_damage_ends_in_a_map_or_a_named_error(made, tmp_path_factory, data):
    path = shutil.copyfile(made, tmp_path_factory.mktemp("any") / "m.nc")
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        entry(path).close()
    except StoreError:
        return


@pytest.fixture(scope="module", params=["NETCDF3_CLASSIC", "NETCDF3_64BIT", "NETCDF3_64BIT_DATA"])
def classic(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("classic") / "m.nc"
    record = xr.Dataset({"a": (("time", "lat"), np.ones((3, 6))), "b": (("time",), np.arange(3, dtype=np.int16))})
    whole = maps().drop_encoding().merge(record)
    whole["land_use"] = whole["land_use"].astype(np.int8)  # the older two have no unsigned bytes
    netcdf4 = pytest.importorskip("netCDF4")
    with netcdf4.Dataset(path, "w", format=request.param) as file:
        for dim, size in whole.sizes.items():
            file.createDimension(dim, None if dim == "time" else size)
        for name, variable in whole.variables.items():
            file.createVariable(name, variable.dtype, variable.dims)[:] = variable.values
        file.title = "land use"
    return path, whole


def test_classic_files_of_each_version_are_opened(classic):
    path, whole = classic
    assert check_file(path, stranger=True) == {"engine": "netcdf4" if path.read_bytes()[3] == 5 else "scipy"}
    with open_coarse(path) as found:
        xr.testing.assert_equal(found.load(), whole)


@given(data=st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_header_of_a_classic_file_ends_the_process(classic, tmp_path_factory, data):
    content = bytearray(classic[0].read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(4, 399))] = data.draw(st.sampled_from([0, 1, 127, 255]) | st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "m.nc"
    path.write_bytes(content[: data.draw(st.just(len(content)) | st.integers(4, len(content)))])
    try:
        with open_coarse(path) as found:
            if found.nbytes < 10**6:
                found.load()
    except StoreError:
        pass
    path.unlink()


@pytest.mark.parametrize("name", ["m.nc", "m.tif", "m.vrt"])
def test_a_raster_that_names_other_files_is_refused_whatever_it_is_called(tmp_path, name):
    (tmp_path / "secret").write_bytes(b"TOP-SECRET-01234")
    (tmp_path / name).write_text(
        '<VRTDataset rasterXSize="8" rasterYSize="2"><SRS>EPSG:4326</SRS><GeoTransform>0,1,0,2,0,-1</GeoTransform>'
        '<VRTRasterBand dataType="Byte" band="1" subClass="VRTRawRasterBand">'
        f'<SourceFilename relativeToVRT="0">{tmp_path / "secret"}</SourceFilename></VRTRasterBand></VRTDataset>'
    )
    with pytest.raises(StoreError, match="neither NetCDF nor GeoTIFF"):
        open_coarse(tmp_path / name)
    with pytest.raises(StoreError, match="cannot be read as GeoTIFF"):
        open_map(tmp_path / name)


def test_a_geotiff_is_opened(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    profile = {"driver": "GTiff", "width": 8, "height": 6, "count": 1, "dtype": "uint8", "crs": 4326}
    with rasterio.open(tmp_path / "m", "w", transform=rasterio.Affine(1, 0, -0.5, 0, -1, 3.5), **profile) as file:
        file.write(maps()["land_use"].values, 1)
    with open_coarse(tmp_path / "m") as found:
        np.testing.assert_array_equal(found["band_data"].squeeze(), maps()["land_use"])
