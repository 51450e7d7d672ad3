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
    of its zoom. confidence: how likely it is there, 0 to 1. width: of a road, in pixels.
    """

    theme: Theme
    kind: str
    geometry: BaseGeometry
    confidence: float
    width: float = 0.0
