"""What a map shows: areas, lines and buildings with how sure they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from shapely.geometry.base import BaseGeometry

Theme = Literal["cover", "building", "road"]


@dataclass(frozen=True)
class MapObject:
    """One object.

    kind: of a cover, its colour's name in `palette.PALETTE`; of a road, its class in `style.ORDER`. geometry: in pixels
    of its zoom. confidence: how likely it is there, 0 to 1. width: of a road, in pixels. whole: False for a building
    of which only a part was seen, or that is too large to look the same from a neighbouring window. own: False for a
    building that belongs to a neighbouring block and reaches into this one. reviewed: whether a person has said so.
    """

    theme: Theme
    kind: str
    geometry: BaseGeometry
    confidence: float
    width: float = 0.0
    whole: bool = True
    own: bool = True
    reviewed: bool = False
