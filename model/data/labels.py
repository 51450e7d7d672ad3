"""What a supplied map says about each pixel: one palette colour, or only which colours it may be.

Other maps have other styles, labels printed over them, or gaps. Their pixels still teach something: "some vegetation",
"anything but a road". A *label* is an index into ALLOWED: below P the palette colour itself, then the sets below.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tilecascade.model.palette import CLASS_OF_COLOUR, CLASSES, COLOURS, PALETTE, nearest_colour

Pixels = NDArray[np.uint8]
Labels = NDArray[np.uint8]

_NAMES = [name for name, _, _ in PALETTE]
FILL, OUTLINE = _NAMES.index("building"), _NAMES.index("building outline")
"""Palette indices of buildings' two colours."""


def _sets() -> dict[str, NDArray[np.bool_]]:
    """The sets of colours beyond the single ones, by name."""
    of: dict[str, NDArray[np.bool_]] = {kind: np.equal(CLASS_OF_COLOUR, index) for index, kind in enumerate(CLASSES)}
    dense = np.array([name in ("forest", "scrub") for name in _NAMES])
    return of | {
        "not road": ~of["road"],
        "neither road nor water": ~(of["road"] | of["water"]),
        "wooded": dense,
        "open": ~(dense | of["water"]),
        "casing": of["road"] | np.array([name == "building outline" for name in _NAMES]),
        "anything": np.ones(len(PALETTE), dtype=np.bool_),
    }


_SETS = _sets()
ALLOWED: NDArray[np.bool_] = np.concatenate([np.eye(len(PALETTE), dtype=np.bool_), np.stack(list(_SETS.values()))])
"""K x P: the palette colours that each label allows."""

LABEL_OF = {name: len(PALETTE) + i for i, name in enumerate(_SETS)}
"""Label of each set."""

ANYTHING = LABEL_OF["anything"]

UNLISTED: dict[tuple[int, int, int], str] = {
    (197, 195, 195): "land",  # quarry
    (182, 181, 146): "land",  # landfill
    (199, 199, 180): "land",  # brownfield and construction sites
    (243, 227, 221): "land",  # unidentified land use
    (223, 252, 226): "anything",  # sports centres
}
"""Area colours of the supplied maps that the palette lacks, and the label that their pixels get instead of the nearest
palette colour's: quarries, landfills and construction sites would count as buildings, 12 % of all building pixels."""

SAME = 4
"""Largest difference by channel between two pixels of one area colour."""

FAR = 20.0
"""Distance in RGB from the nearest palette colour beyond which a pixel of a map with letters says nothing."""


def exact(image: Pixels) -> Labels:
    """A map of the default style without labels: each pixel's palette colour, or the label of an unlisted one."""
    out = nearest_colour(image)
    out[(out == OUTLINE) & ~buildings(image)] = LABEL_OF["casing"]
    for colour, label in UNLISTED.items():
        out[_is_area(image, colour)] = LABEL_OF[label]
    return out


def buildings(image: Pixels) -> NDArray[np.bool_]:
    """Where a map of the default style has buildings: their fill, and outlines beside it.

    The casings of roads have nearly the colour of outlines, and quarries that of the fill.
    """
    colours = nearest_colour(image)
    fill = colours == FILL
    for colour in UNLISTED:
        fill &= ~_is_area(image, colour)
    beside = ndimage.binary_dilation(ndimage.binary_opening(fill, np.ones((2, 2), dtype=np.bool_)), iterations=2)
    return np.asarray((fill | (colours == OUTLINE)) & beside)


def _is_area(image: Pixels, colour: tuple[int, int, int]) -> NDArray[np.bool_]:
    """Where an area of one colour is, at least 3 x 3 pixels: lines that are smoothed pass through many colours."""
    same = np.abs(image.astype(np.int16) - np.array(colour, dtype=np.int16)).max(axis=-1) <= SAME
    return np.asarray(ndimage.binary_opening(same, np.ones((3, 3), dtype=np.bool_))) if same.any() else same


UNREVIEWED = (255, 0, 255)
"""Colour of what nobody has looked at, in pairs that are made of reviews."""


def reviewed(image: Pixels) -> Labels:
    """A map of the default style, of which only a part was reviewed."""
    return np.where((image == UNREVIEWED).all(axis=-1), ANYTHING, exact(image)).astype(np.uint8)


def classes(image: Pixels) -> Labels:
    """A map of a similar style, with letters and icons: the class of what is clearly a palette colour."""
    nearest = nearest_colour(image)
    distance = np.sqrt(((image.astype(np.int32) - COLOURS[nearest]) ** 2).sum(axis=-1))
    by_class = np.array([LABEL_OF[name] for name in CLASSES], dtype=np.uint8)
    return np.where(distance > FAR, ANYTHING, by_class[CLASS_OF_COLOUR[nearest]]).astype(np.uint8)


def _partial(image: Pixels, complete: tuple[str, ...], otherwise: str) -> Labels:
    """`complete` classes are all there, houses where the map shows them; the rest is only known to be none of the
    complete ones."""
    nearest = nearest_colour(image)
    kind = CLASS_OF_COLOUR[nearest]
    out = np.full(nearest.shape, LABEL_OF[otherwise], dtype=np.uint8)
    for name in (*complete, "building"):
        out[kind == CLASSES.index(name)] = LABEL_OF[name]
    for name in ("path", "track"):
        index = _NAMES.index(name)
        out[nearest == index] = index
    return out


def roads(image: Pixels) -> Labels:
    """Roads are complete; no land use."""
    return _partial(image, ("road",), "not road")


def roads_and_water(image: Pixels) -> Labels:
    """Roads and water are complete; no land use."""
    return _partial(image, ("road", "water"), "neither road nor water")


def topographic(image: Pixels) -> Labels:
    """A topographic sheet: green areas are wooded, blue ones water, white ones neither; ink says nothing."""
    red, green, blue = (image[..., i].astype(np.int16) for i in range(3))
    out = np.full(red.shape, ANYTHING, dtype=np.uint8)
    out[np.minimum(np.minimum(red, green), blue) > 235] = LABEL_OF["open"]
    out[(green - red > 18) & (green - blue > 18) & (green > 170)] = LABEL_OF["wooded"]
    out[(blue - red > 50) & (blue > 200) & (green > 150)] = LABEL_OF["water"]
    return out


READERS: dict[str, Callable[[Pixels], Labels]] = {
    "exact": exact,
    "reviewed": reviewed,
    "classes": classes,
    "roads": roads,
    "roads and water": roads_and_water,
    "topographic": topographic,
}
"""How a source's maps are read, by the name used in training configurations."""
