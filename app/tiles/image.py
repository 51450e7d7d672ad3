"""Tiles as image files: pixels and mask to bytes and back, with the constants of the tile in their metadata."""

from __future__ import annotations

import io
from functools import lru_cache

import mercantile
import numpy as np
from mercantile import Tile
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageDraw, PngImagePlugin

from tilecascade.app.tiles.formats import CHECKSUM, with_checksum
from tilecascade.app.tiles.layer import STYLE, Layer
from tilecascade.app.tiles.layer_info import NOTICE
from tilecascade.model.cascade import TILE_SIZE, Mask, Pixels
from tilecascade.model.palette import LAND

COMPRESSION = 4
"""zlib level of PNG files: takes half the time of the usual 6 and gives 2 % more bytes."""

FAST_COMPRESSION = 1
"""That of fields, which are written once and read a few times."""

WEBP_EFFORT, WEBP_METHOD = 30, 2
"""What lossless WebP files are written with; both are 0 for painted imagery, which is 4 % larger then and written in a
fifth of the time."""

DECODED = 48
"""Files kept decoded (64 MiB of fields), because each is the reference of several blocks."""

MARK, MARK_TEXT = (170, 0, 90), "GENERATED"
"""Colour and text of the visible mark."""

BETWEEN = "; "
"""Between two notes in a file other than a PNG."""

QUALITY = 90
"""Of JPEG, without subsampling of colours: roads are thin."""


def provenance(layer: Layer, tile: Tile) -> dict[str, str]:
    """What is true of a tile whoever asks for it, by name: its provenance, which is part of its bytes."""
    notes = {
        "Software": "tilecascade",
        "Comment": NOTICE,
        "tilecascade:model": layer.model.hash,
        "tilecascade:seed": str(layer.seed),
        "tilecascade:style": STYLE,
        "tilecascade:imagery": layer.imagery.id_at(tile),
        "tilecascade:depth": str(layer.depth(tile.z)),
    }
    sensor = layer.sensors_at(tile)
    if sensor is not None:
        notes["tilecascade:sensor"] = sensor
    if tile.z < layer.ladder.root:
        notes["tilecascade:downsampled-from"] = f"zoom {layer.ladder.root}"
        return notes
    reference = layer.ladder.reference_zoom(tile.z)
    if reference is not None:
        parent = mercantile.parent(tile, zoom=reference)
        notes["tilecascade:reference"] = f"{parent.z}/{parent.x}/{parent.y}"
    return notes


def encode(colours: Pixels, known: Mask, notes: dict[str, str], form: str = "png", fast: bool = False) -> bytes:
    """S x S x 3 colours and mask -> PNG, lossless WebP or JPEG ("jpg"), with the notes inside.

    RGB where all is known, else RGBA, transparent where nothing is; JPEG has no transparency and shows LAND there.
    fast: a larger PNG or WebP in less time.
    """
    out = io.BytesIO()
    if known.all():
        image = Image.fromarray(np.ascontiguousarray(colours))
    elif form == "jpg":
        image = Image.fromarray(np.where(known[..., None], colours, np.array(LAND, dtype=np.uint8)))
    else:
        alpha = known.astype(np.uint8) * 255
        image = Image.fromarray(np.dstack([colours * known[..., None], alpha]))
    if form == "png":
        chunks = PngImagePlugin.PngInfo()
        for name, value in notes.items():
            chunks.add_text(name, value)
        image.save(out, "PNG", pnginfo=chunks, compress_level=FAST_COMPRESSION if fast else COMPRESSION)
        return out.getvalue()
    exif = Image.Exif()
    exif[ExifTags.Base.Software] = notes.get("Software", "")
    described = [*(f"{name}={value}" for name, value in notes.items()), f"{CHECKSUM.decode()}00000000"]
    exif[ExifTags.Base.ImageDescription] = BETWEEN.join(described)
    if form == "webp":
        effort, method = (0, 0) if fast else (WEBP_EFFORT, WEBP_METHOD)
        image.save(out, "WEBP", lossless=True, exact=True, quality=effort, method=method, exif=exif)
    else:
        image.save(out, "JPEG", quality=QUALITY, subsampling=0, exif=exif)
    return with_checksum(out.getvalue())


def notes_of(data: bytes) -> dict[str, str]:
    """The notes inside a file of ours, and its checksum unless it is a PNG, without decoding it."""
    with Image.open(io.BytesIO(data)) as image:
        if image.format == "PNG":
            return dict(getattr(image, "text", {}))
        described = str(image.getexif().get(ExifTags.Base.ImageDescription, ""))
        return dict(part.split("=", 1) for part in described.split(BETWEEN) if "=" in part)


def marked(data: bytes, form: str) -> bytes:
    """The same image and notes with a mark that people see: GENERATED along its lower edge, and a frame."""
    with Image.open(io.BytesIO(data)) as image:
        picture, chunks, exif = (
            image.convert("RGB" if form == "jpg" else "RGBA"),
            PngImagePlugin.PngInfo(),
            image.getexif(),
        )
        for name, value in getattr(image, "text", {}).items():
            chunks.add_text(name, value)
    draw = ImageDraw.Draw(picture)
    width, height = picture.size
    draw.rectangle((0, 0, width - 1, height - 1), outline=MARK)
    draw.text((6, height - 16), MARK_TEXT, fill=MARK, stroke_width=1, stroke_fill=(255, 255, 255))
    out = io.BytesIO()
    if form == "png":
        picture.save(out, "PNG", pnginfo=chunks, compress_level=COMPRESSION)
    elif form == "webp":
        picture.save(out, "WEBP", lossless=True, exif=exif)
    else:
        picture.save(out, "JPEG", quality=QUALITY, subsampling=0, exif=exif)
    return out.getvalue()


@lru_cache(maxsize=DECODED)
def decode(png: bytes) -> Pixels:
    """Bytes of any format -> S x S x 4 RGBA uint8, not to be written to."""
    with Image.open(io.BytesIO(png)) as image:
        pixels = np.asarray(image.convert("RGBA"))
    pixels.flags.writeable = False
    return pixels


PREVIEW_COLOUR, PREVIEW_STRENGTH = 0.35, 0.45
"""How much of the imagery's colour and of its contrast a preview keeps, so that it looks like ground under a map."""


def preview(imagery: Pixels, known: Mask, kind: str = "map") -> Pixels:
    """What a tile that is not finished shows. H x W x 3 and mask -> H x W x 4 RGBA.

    Imagery as the background of a map: pale, on LAND; as it is if tiles of imagery are wanted.
    """
    if kind == "imagery":
        return np.dstack([imagery, known.astype(np.uint8) * 255])
    colours = imagery.astype(np.float32)
    grey = colours.mean(axis=2, keepdims=True)
    pale = np.array(LAND, dtype=np.float32) + PREVIEW_STRENGTH * (grey + PREVIEW_COLOUR * (colours - grey) - 128)
    return np.dstack([pale.clip(0, 255), known * 255.0]).astype(np.uint8)


def double(tile: Pixels) -> Pixels:
    """An RGBA tile at twice its size, smoothly; its mask stays sharp."""
    size = (2 * tile.shape[1], 2 * tile.shape[0])
    colours = np.asarray(Image.fromarray(tile[..., :3]).resize(size, Image.Resampling.BICUBIC))
    return np.dstack([colours, tile[..., 3].repeat(2, 0).repeat(2, 1)])


def join(children: dict[tuple[int, int], Pixels]) -> Pixels:
    """Up to four RGBA children, by (column, row) in {0, 1}, side by side; transparent where there is none."""
    canvas = np.zeros((2 * TILE_SIZE, 2 * TILE_SIZE, 4), dtype=np.uint8)
    for (column, row), child in children.items():
        canvas[row * TILE_SIZE : (row + 1) * TILE_SIZE, column * TILE_SIZE : (column + 1) * TILE_SIZE] = child
    return canvas


def merge_down(children: dict[tuple[int, int], Pixels]) -> Pixels:
    """Up to four RGBA children, by (column, row) in {0, 1}, averaged 2 x 2 into one RGBA tile (alpha-weighted)."""
    cells: NDArray[np.uint32] = join(children).astype(np.uint32).reshape(TILE_SIZE, 2, TILE_SIZE, 2, 4)
    weight = cells[..., 3:].sum(axis=(1, 3))
    total = (cells[..., :3] * cells[..., 3:]).sum(axis=(1, 3))
    colours = (total + weight // 2) // np.maximum(weight, 1)
    alpha = np.where(weight >= 510, 255, 0)
    return np.dstack([colours * (alpha > 0), alpha]).astype(np.uint8)
