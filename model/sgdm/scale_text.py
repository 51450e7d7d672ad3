"""The scale text of a cascade stage (C2GM section 3.2.1): what the text tower reads about a tile's zoom.

The published per-zoom table states *equatorial* Web-Mercator resolutions; so does this one, because the text is a
label of the zoom level and not a measurement on the ground.
"""

from __future__ import annotations

MAX_TABLE_ZOOM = 22

# zoom: (metres per pixel at the equator, map scale denominator, what such a map shows)
ZOOM_TABLE: dict[int, tuple[str, str, str]] = {
    0: ("156543", "500M", "whole world"),
    1: ("78272", "250M", "whole world"),
    2: ("39136", "150M", "subcontinental area"),
    3: ("19568", "70M", "largest country"),
    4: ("9784", "35M", "whole world"),
    5: ("4892", "15M", "large African country"),
    6: ("2446", "10M", "large European country"),
    7: ("1223", "4M", "small country, US state"),
    8: ("611.496", "2M", "small country, US state"),
    9: ("305.748", "1M", "wide area, large metropolitan area"),
    10: ("152.874", "500k", "metropolitan area"),
    11: ("76.437", "250k", "city"),
    12: ("38.219", "150k", "town, or city district"),
    13: ("19.109", "70k", "village, or suburb"),
    14: ("9.555", "35k", "village, or suburb"),
    15: ("4.777", "15k", "small road"),
    16: ("2.389", "8k", "street"),
    17: ("1.194", "4k", "block, park, addresses"),
    18: ("0.597", "2k", "some buildings, trees"),
    19: ("0.299", "1k", "local highway and crossing details"),
    20: ("0.149", "500", "a mid-sized building"),
    # the published table ends at 20; drone imagery goes deeper
    21: ("0.075", "250", "a small building"),
    22: ("0.037", "100", "a small building"),
}


def scale_text(zoom: int, reference_zoom: int | None) -> str:
    """The text for a tile of `zoom` whose cascade reference is at `reference_zoom` (None at the root).

    Slots, in the published order: what it is, zoom, reference zoom and ratio (omitted without a reference, as in the
    published non-cascade data set), resolution, scale, example areas. Raises ValueError outside z0..z22.
    """
    if zoom not in ZOOM_TABLE:
        raise ValueError(f"zoom {zoom} has no scale text; 0 to {MAX_TABLE_ZOOM} have")
    resolution, scale, example = ZOOM_TABLE[zoom]
    slots = ["a map tile", f"zoom level {zoom}"]
    if reference_zoom is not None:
        slots += [f"reference zoom level {reference_zoom}", f"{2 ** (zoom - reference_zoom)}X reference"]
    slots += [f"{resolution} m/pixel", f"scale 1:{scale}", example]
    return ", ".join(slots)


def published_text(zoom: int, reference_zoom: int | None) -> str:
    """The same word for word as the authors' released code has it; networks that they trained read this."""
    if zoom not in ZOOM_TABLE:
        raise ValueError(f"zoom {zoom} has no scale text; 0 to {MAX_TABLE_ZOOM} have")
    resolution, scale, example = ZOOM_TABLE[zoom]
    number = scale.replace("M", "000000").replace("k", "000")
    slots = ["geographical map tile", f"tile zoom level {zoom}"]
    if reference_zoom is not None:
        slots += [
            f"reference zoom level {reference_zoom}",
            f"reference zoom scale {2 ** (zoom - reference_zoom)}X",
        ]
    slots += [f"map resolution {resolution}m/pixel", f"map scale 1:{number}"]
    return ", ".join([*slots, f"examples of areas to represent: {example}"])


PROFILES = {"short": scale_text, "published": published_text}
"""How a scale text is worded, by the name that is kept with the weights."""
