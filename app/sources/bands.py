"""Which bands of a raster are its colours. Apart, because the program that opens strangers' files needs it, too."""

from __future__ import annotations

import rasterio
from rasterio.enums import ColorInterp


class NoColoursError(ValueError):
    """The raster has no red, green and blue. The message goes on after the raster's name."""


def colour_bands(dataset: rasterio.DatasetReader) -> tuple[int, int, int]:
    """The numbers, from 1, of red, green and blue: by their colour interpretation, else the first three. Raises
    NoColoursError."""
    kinds = list(dataset.colorinterp)
    wanted = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
    if all(kind in kinds for kind in wanted):
        red, green, blue = (kinds.index(kind) + 1 for kind in wanted)
        return red, green, blue
    optical = [i + 1 for i, kind in enumerate(kinds) if kind != ColorInterp.alpha]
    if len(optical) < 3:
        raise NoColoursError(f"has {len(optical)} colour band(s); imagery needs red, green and blue")
    return optical[0], optical[1], optical[2]
