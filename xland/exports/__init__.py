"""Maps in the forms that other programs read: GeoTIFF, NetCDF by years, Zarr 2, pyramids for map viewers."""
