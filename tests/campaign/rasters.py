"""Rasters that a hostile user would send, made by code: a name, and the bytes of the file."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import from_origin

from tests.conftest import picture, place_bounds, write_scene

SECRET = (201, 7, 99)
"""The colour of a file that no answer may show."""

LETTER = ord("Q")
"""The only byte of a text file that no answer may show."""

Edit = Callable[[rasterio.io.DatasetWriter], None]


class Bait:
    """Files outside the data directory, and an address, that hostile rasters name."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder, self.address = folder, address
        self.raster = folder / "secret.tif"
        colours = np.full((512, 512, 3), SECRET, dtype=np.uint8)
        write_scene(self.raster, colours, place_bounds())
        self.text = folder / "secret.txt"
        self.text.write_bytes(bytes([LETTER]) * 512 * 512 * 3)
        self.zip, self.tar = folder / "secret.zip", folder / "secret.tar"
        with zipfile.ZipFile(self.zip, "w") as archive:
            archive.write(self.raster, "secret.tif")
        with tarfile.open(self.tar, "w") as archive_file:
            archive_file.add(self.raster, "secret.tif")

    def vrt(self, source: str) -> str:
        """An inline VRT of 512 x 512 pixels whose bands come from another raster."""
        bands = "".join(
            f'<VRTRasterBand dataType="Byte" band="{band}"><SimpleSource><SourceFilename relativeToVRT="0">{source}'
            f"</SourceFilename><SourceBand>{band}</SourceBand></SimpleSource></VRTRasterBand>"
            for band in (1, 2, 3)
        )
        return f'<VRTDataset rasterXSize="512" rasterYSize="512">{bands}</VRTDataset>'

    def raw_vrt(self, source: str) -> str:
        """The same of any file's bytes."""
        bands = "".join(
            f'<VRTRasterBand dataType="Byte" band="{band}" subClass="VRTRawRasterBand"><SourceFilename '
            f'relativeToVRT="0">{source}</SourceFilename><ImageOffset>0</ImageOffset><PixelOffset>1</PixelOffset>'
            "<LineOffset>512</LineOffset></VRTRasterBand>"
            for band in (1, 2, 3)
        )
        return f'<VRTDataset rasterXSize="512" rasterYSize="512">{bands}</VRTDataset>'


def edited(folder: Path, edit: Edit) -> bytes:
    """A good scene with something done to its metadata."""
    # GDAL, told to write over a file, deletes what that file names as its overviews
    (folder / "edited.tif").unlink(missing_ok=True)
    path = write_scene(folder / "edited.tif", picture(1024, 5), place_bounds())
    with rasterio.open(path, "r+") as dataset:
        edit(dataset)
    return path.read_bytes()


def foreign_files(folder: Path, bait: Bait) -> Iterator[tuple[str, bytes]]:
    """Good pictures whose metadata name other files or addresses: of what is accepted, nothing of those may show."""
    relative = "../" * 12 + str(bait.raster).lstrip("/")
    overviews = {
        "absolute": str(bait.raster),
        "relative": relative,
        "directory": f"GTIFF_DIR:1:{bait.raster}",
        "base": f":::BASE:::{bait.raster}",
        "vrt": bait.vrt(str(bait.raster)),
        "vrt relative": bait.vrt(relative),
        "vrt raw text": bait.raw_vrt(str(bait.text)),
        "vrt raw relative": bait.raw_vrt("../" * 12 + str(bait.text).lstrip("/")),
        "vrt url": bait.vrt(f"/vsicurl/{bait.address}/x.tif"),
        "vrt protocol": f"vrt://{bait.raster}",
        "vsicurl": f"/vsicurl/{bait.address}/x.tif",
        "vsicurl streaming": f"/vsicurl_streaming/{bait.address}/x.tif",
        "vsizip": f"/vsizip/{bait.zip}/secret.tif",
        "vsitar": f"/vsitar/{bait.tar}/secret.tif",
        "vsisubfile": f"/vsisubfile/0_{bait.raster.stat().st_size},{bait.raster}",
        "vsisparse": f"/vsisparse/{bait.text}",
        "vsis3": "/vsis3/bucket/x.tif",
        "wms": f'<GDAL_WMS><Service name="TMS"><ServerUrl>{bait.address}/${{z}}</ServerUrl></Service></GDAL_WMS>',
        "wms url": f"WMS:{bait.address}/?layers=a",
        "http": f"{bait.address}/x.tif",
        "ftp": "ftp://127.0.0.1/x.tif",
    }
    for name, value in overviews.items():
        yield f"overviews {name}", edited(folder, lambda d, v=value: d.update_tags(ns="OVERVIEWS", OVERVIEW_FILE=v))

    def proxy(dataset: rasterio.io.DatasetWriter) -> None:
        dataset.update_tags(ns="ProxyOverviewRequest", file=str(bait.raster))
        dataset.update_tags(ns="OVERVIEWS", OVERVIEW_FILE=str(bait.raster), PROXY_OVERVIEW_REQUEST="YES")

    def band(dataset: rasterio.io.DatasetWriter) -> None:
        for index in (1, 2, 3):
            dataset.update_tags(index, ns="OVERVIEWS", OVERVIEW_FILE=str(bait.raster))

    def mask(dataset: rasterio.io.DatasetWriter) -> None:
        dataset.update_tags(ns="OVERVIEWS", MASK_FILE=str(bait.raster), INTERNAL_MASK_FLAGS_1="2")

    def places(dataset: rasterio.io.DatasetWriter) -> None:
        where = {"X_DATASET": str(bait.raster), "X_BAND": "1", "Y_DATASET": str(bait.raster), "Y_BAND": "2"}
        dataset.update_tags(ns="GEOLOCATION", **where, PIXEL_OFFSET="0", PIXEL_STEP="1", LINE_OFFSET="0", LINE_STEP="1")

    def rpc(dataset: rasterio.io.DatasetWriter) -> None:
        dataset.update_tags(ns="RPC", RPC_DEM=str(bait.raster), LINE_OFF="1")

    def lists(dataset: rasterio.io.DatasetWriter) -> None:
        dataset.update_tags(ns="SUBDATASETS", SUBDATASET_1_NAME=str(bait.raster))
        dataset.update_tags(ns="DERIVED_SUBDATASETS", DERIVED_SUBDATASET_1_NAME=f"DERIVED_SUBDATASET:AMP:{bait.raster}")

    for name, edit in {
        "proxy": proxy,
        "by band": band,
        "mask": mask,
        "geolocation": places,
        "rpc": rpc,
        "subdatasets": lists,
    }.items():
        yield f"metadata {name}", edited(folder, edit)


def grids(folder: Path, bait: Bait) -> Iterator[tuple[str, bytes]]:
    """Coordinate reference systems that name files."""
    for name, grid in (("absolute", str(bait.text)), ("optional", f"@{bait.text}"), ("url", f"{bait.address}/g.gsb")):
        crs = f"+proj=merc +a=6378137 +b=6378137 +nadgrids={grid} +type=crs"
        path = folder / "grid.tif"
        try:
            write_scene(path, picture(256, 1), place_bounds(), "EPSG:3857")
            with rasterio.open(path, "r+") as dataset:
                dataset.crs = rasterio.crs.CRS.from_string(crs)
        except rasterio.errors.RasterioError:
            continue
        yield f"grid {name}", path.read_bytes()


def sparse(path: Path, width: int, height: int | None = None, bands: int = 3, **options: object) -> bytes:
    """A small file that says it is a large picture: none of its blocks is there."""
    box = place_bounds()
    profile = {"driver": "GTiff", "width": width, "height": height or width, "count": bands, "dtype": "uint8"}
    layout = {"tiled": True, "blockxsize": 256, "blockysize": 256, "sparse_ok": True, "bigtiff": "YES"} | options
    place = {"crs": "EPSG:3857", "transform": from_origin(box[0], box[3], 0.1, 0.1)}
    with rasterio.open(path, "w", **profile, **layout, **place):
        pass
    return path.read_bytes()


def large(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Small files that would take much memory, time or disk."""
    box = place_bounds()

    yield "sparse 150,000 px", sparse(folder / "a.tif", 150_000, 150_000, blockxsize=4096, blockysize=4096)
    yield (
        "sparse one huge block",
        sparse(folder / "b.tif", 60_000, 60_000, blockxsize=60_000 // 16 * 16, blockysize=60_000 // 16 * 16),
    )
    yield "thousands of bands", sparse(folder / "c.tif", 64, 64, 5000, interleave="pixel")
    yield "one row", sparse(folder / "d.tif", 8_000_000, 1, tiled=False, blockxsize=8_000_000, blockysize=1)
    yield "one strip", sparse(folder / "e.tif", 30_000, 30_000, tiled=False, blockysize=30_000, blockxsize=30_000)
    zeros = np.zeros((4096, 4096, 3), dtype=np.uint8)
    yield "deflate bomb", write_scene(folder / "f.tif", zeros, box, compress="DEFLATE", nodata=0).read_bytes()
    pixels = picture(256, 3)
    world = (-180.0, -85.0, 180.0, 85.0)
    yield "the whole world", write_scene(folder / "g.tif", pixels, world, "EPSG:4326").read_bytes()
    yield "a country at 20 km", write_scene(folder / "h.tif", pixels[:64, :64], (5.0, 40.0, 15.0, 50.0), "EPSG:4326",
                                           blockxsize=64, blockysize=64).read_bytes()  # fmt: skip


def patched(content: bytes, at: int, value: bytes) -> bytes:
    """The same with some bytes replaced."""
    return content[:at] + value + content[at + len(value) :]


def lies(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Files whose structure is not what it says."""
    good = write_scene(folder / "good.tif", picture(512, 2), place_bounds()).read_bytes()
    big = write_scene(folder / "big.tif", picture(512, 2), place_bounds(), bigtiff="YES").read_bytes()
    first = struct.unpack("<I", good[4:8])[0]
    count = struct.unpack("<H", good[first : first + 2])[0]
    after = first + 2 + 12 * count
    yield "directory loop", patched(good, after, struct.pack("<I", first))
    yield "directory beyond the end", patched(good, 4, struct.pack("<I", len(good) + 1000))
    yield "directory in the header", patched(good, 4, struct.pack("<I", 0))
    yield "directory of 65535 entries", patched(good, first, b"\xff\xff")
    tags = {256: "width", 257: "height", 258: "bits", 259: "compression", 262: "photometric", 277: "samples",
            322: "tile width", 323: "tile height", 324: "offsets", 325: "sizes", 339: "format"}  # fmt: skip
    for index in range(count):
        at = first + 2 + 12 * index
        tag, kind, number, _ = struct.unpack("<HHII", good[at : at + 12])
        if tag not in tags:
            continue
        for name, value in (("huge", 0xFFFFFFFF), ("zero", 0), ("odd", 0x7FFFFFF3)):
            lie = struct.pack("<HHII", tag, kind if kind != 3 else 4, number if number < 4 else 1, value)
            yield f"{tags[tag]} {name}", patched(good, at, lie)
        yield f"{tags[tag]} of 2^30 values", patched(good, at, struct.pack("<HHII", tag, kind, 1 << 30, 8))
    yield "bigtiff cut off", big[: len(big) // 2]
    yield "bigtiff directory beyond the end", patched(big, 8, struct.pack("<Q", 1 << 60))
    yield "bigtiff header of 4", patched(big, 4, b"\x04\x00")
    rng = np.random.default_rng(7)
    for seed in range(6):
        noise = bytearray(good)
        for at in rng.integers(8, len(good), 40):
            noise[at] = int(rng.integers(256))
        for at in rng.integers(first, after, 6):
            noise[at] = int(rng.integers(256))
        yield f"bytes changed {seed}", bytes(noise)
    yield "nothing but a header", good[:8]
    yield "zip of it", _zipped(good)


def _zipped(content: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("scene.tif", content)
    return out.getvalue()


def other_formats(bait: Bait) -> Iterator[tuple[str, bytes]]:
    """What GDAL would open by itself, were it not told which driver to take."""
    yield "vrt", bait.vrt(str(bait.raster)).encode()
    yield "vrt raw", bait.raw_vrt(str(bait.text)).encode()
    yield "wms", f"<GDAL_WMS><Service name='TMS'><ServerUrl>{bait.address}</ServerUrl></Service></GDAL_WMS>".encode()
    yield "path", str(bait.raster).encode()
    yield "vsicurl", f"/vsicurl/{bait.address}/x.tif".encode()
    yield "mapserver", b"MAP\nEND"
    yield "gti", f"<GDALTileIndexDataset><IndexDataset>{bait.raster}</IndexDataset></GDALTileIndexDataset>".encode()


def corpus(folder: Path, bait: Bait) -> Iterator[tuple[str, bytes]]:
    """All of them."""
    yield from foreign_files(folder, bait)
    yield from grids(folder, bait)
    yield from large(folder)
    yield from lies(folder)
    yield from other_formats(bait)
