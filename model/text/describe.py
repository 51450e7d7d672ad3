"""Captions of map tiles, computed from what is drawn on them: exact elements, and relations that geometry bears out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tilecascade.model.cascade import Mask, Pixels
from tilecascade.model.palette import PALETTE, nearest_colour
from tilecascade.model.text.captions import Caption

THINGS: Mapping[str, tuple[str, ...]] = {
    "building": ("building", "building outline"),
    "road": ("road", "secondary road", "primary road", "trunk road"),
    "railway": ("railway",),
    "path": ("path", "track"),
    "water": ("water",),
    "forest": ("forest",),
    "meadow": ("grass", "park", "pitch", "cemetery"),
    "allotments": ("allotments",),
    "scrub": ("scrub",),
    "wetland": ("wetland",),
    "farmland": ("farmland",),
    "industrial area": ("industrial",),
    "commercial area": ("commercial", "retail"),
    "residential area": ("residential",),
    "parking lot": ("parking", "garages"),
}
"""What an element is called, by the colours of the palette."""

AREAS = ("forest", "meadow", "scrub", "wetland", "farmland", "industrial area", "commercial area", "residential area")

OPEN_LAND = ("forest", "farmland", "meadow", "scrub", "wetland", "allotments")
"""What a scene is called where few houses stand."""

SCENES = (
    "dense residential", "medium residential", "sparse residential", "industrial", "commercial", "water", *OPEN_LAND,
    "bare land",
)  # fmt: skip
"""Every scene that a caption of a map tile can have."""

LEAST_SHARE = 0.004
"""Share of a tile that an element takes at least."""

NEAR = 14
"""Pixels within which something is beside something else."""

MOST = 0.7
"""Share that must bear a relation out."""

MOST_RELATIONS = 4
"""Relations that a caption has at most."""


def describe(tile: Pixels) -> Caption:
    """The caption of a map tile in the default style, H x W x 3 uint8."""
    index = nearest_colour(tile)
    numbers = {name: place for place, (name, _, _) in enumerate(PALETTE)}
    masks = {thing: np.isin(index, [numbers[name] for name in names]) for thing, names in THINGS.items()}
    shares = {thing: float(mask.mean()) for thing, mask in masks.items()}
    elements = tuple(sorted((t for t in shares if shares[t] >= LEAST_SHARE), key=lambda thing: -shares[thing]))
    relations = tuple(dict.fromkeys(_relations(masks, shares)))[:MOST_RELATIONS]
    return Caption(scene_of(shares), relations, elements or ("bare land",))


def scene_of(shares: Mapping[str, float]) -> str:
    """The scene by the shares of things, in the words of AAAAD where it has some."""
    if shares["water"] > 0.6:
        return "water"
    for thing, scene in (("industrial area", "industrial"), ("commercial area", "commercial")):
        if shares[thing] > 0.25:
            return scene
    for least, scene in ((0.15, "dense residential"), (0.07, "medium residential"), (0.015, "sparse residential")):
        if shares["building"] > least:
            return scene
    largest = max(OPEN_LAND, key=lambda thing: shares[thing])
    return largest if shares[largest] > 0.25 else "bare land"


def _relations(masks: Mapping[str, Mask], shares: Mapping[str, float]) -> Iterator[str]:
    if LEAST_SHARE <= shares["water"] <= 0.7:
        yield from _of_water(masks, shares)
    yield from _surroundings(masks)
    if shares["building"] >= LEAST_SHARE and shares["road"] >= LEAST_SHARE:
        beside = ndimage.distance_transform_edt(~masks["road"]) <= NEAR
        if _share(masks["building"], beside) > MOST:
            yield "buildings along the road"
    for thing in ("forest", "building"):
        side = _side(masks[thing]) if shares[thing] >= 0.03 else None
        if side is not None:
            yield f"{'buildings' if thing == 'building' else 'a ' + thing} in the {side}"


def _of_water(masks: Mapping[str, Mask], shares: Mapping[str, float]) -> Iterator[str]:
    bridges = _bridges(masks["road"], masks["water"])
    joined = masks["water"] | ndimage.binary_dilation(bridges, iterations=2)  # a river goes on under its bridges
    labels = np.asarray(ndimage.label(joined, np.ones((3, 3)))[0])
    water = np.asarray(labels == 1 + np.argmax(np.bincount(labels.ravel())[1:]))
    course = _course(water)
    name = "river" if course else "lake"
    if course:
        yield f"a river {course}"
    distance, nearest = ndimage.distance_transform_edt(~water, return_indices=True)
    rows, columns = np.indices(water.shape)
    away = rows - nearest[0], columns - nearest[1]  # from the nearest water, down and to the right
    if shares["road"] >= LEAST_SHARE:
        if bridges.sum() >= 12:
            yield f"a road across the {name}"
        bank = _bank(masks["road"] & (distance <= 2 * NEAR), away, water, course)
        if bank is not None:
            yield f"a road along the {bank} bank of the {name}"
    if shares["building"] >= LEAST_SHARE:
        direction = _direction(masks["building"], away)
        if direction is not None:
            yield f"buildings {direction} of the {name}"


def _course(water: Mask) -> str | None:
    """How water runs through a tile; None if it does not, as a lake."""
    if water[0].any() and water[-1].any() and water.sum() < 0.45 * water.size:
        return "from north to south"
    if water[:, 0].any() and water[:, -1].any() and water.sum() < 0.45 * water.size:
        return "from west to east"
    return None


def _bridges(road: Mask, water: Mask) -> Mask:
    """The road that has water close by on two opposite sides."""
    found = np.zeros_like(water)
    for axis in (0, 1):
        ahead, behind = np.zeros_like(water), np.zeros_like(water)
        for step in range(1, NEAR):
            here, there = [slice(None)] * 2, [slice(None)] * 2
            here[axis], there[axis] = slice(step, None), slice(None, -step)
            ahead[tuple(here)] |= water[tuple(there)]
            behind[tuple(there)] |= water[tuple(here)]
        found |= road & ahead & behind
    return found


def _bank(near: Mask, away: tuple[NDArray[np.int_], NDArray[np.int_]], water: Mask, course: str | None) -> str | None:
    """The bank that what is near water follows over most of the water's length; None if it follows none."""
    along = 1 if course != "from north to south" else 0  # the axis that the water runs along
    length = np.flatnonzero(water.any(axis=1 - along))
    across = away[1 - along]
    names = ("north", "south") if along == 1 else ("west", "east")
    for name, side in zip(names, (across < 0, across > 0), strict=True):
        covered = np.asarray((near & side & (np.abs(across) >= np.abs(away[along]))).any(axis=1 - along))
        if len(length) > 40 and covered[length].mean() > MOST:
            return name
    return None


def _direction(mask: Mask, away: tuple[NDArray[np.int_], NDArray[np.int_]]) -> str | None:
    """On which side of the nearest water most of something is; None if it is on several."""
    down, right = away[0][mask], away[1][mask]
    vertical = np.abs(down) >= np.abs(right)
    shares = {
        "north": (vertical & (down < 0)).mean(),
        "south": (vertical & (down > 0)).mean(),
        "west": (~vertical & (right < 0)).mean(),
        "east": (~vertical & (right > 0)).mean(),
    }
    side = max(shares, key=lambda name: shares[name])
    return side if shares[side] > MOST else None


def _surroundings(masks: Mapping[str, Mask]) -> Iterator[str]:
    """Areas, lakes and woods that lie wholly within another area."""
    for thing in ("water", *AREAS):
        labels = np.asarray(ndimage.label(ndimage.binary_opening(masks[thing], np.ones((3, 3))))[0])
        for number, place in enumerate(ndimage.find_objects(labels), start=1):
            inside = labels == number
            at_edge = place[0].start == 0 or place[1].start == 0
            at_edge |= place[0].stop == inside.shape[0] or place[1].stop == inside.shape[1]
            if at_edge or not LEAST_SHARE * 2 <= inside.mean() <= 0.25:
                continue
            ring = ndimage.binary_dilation(inside, iterations=NEAR) & ~ndimage.binary_dilation(inside, iterations=3)
            for other in AREAS:
                if other != thing and _share(ring, masks[other]) > MOST:
                    name = "lake" if thing == "water" else thing
                    yield f"{'an' if name[0] in 'aeiou' else 'a'} {name} surrounded by {other}"


def _side(mask: Mask) -> str | None:
    """The half of a tile that most of something is in; None if it is all over."""
    height, width = mask.shape
    halves = {
        "north": mask[: height // 2],
        "south": mask[height // 2 :],
        "west": mask[:, : width // 2],
        "east": mask[:, width // 2 :],
    }
    side = max(halves, key=lambda name: halves[name].sum())
    return side if halves[side].sum() > 0.85 * mask.sum() else None


def _share(some: Mask, there: Mask) -> float:
    return float((some & there).sum() / max(1, some.sum()))
