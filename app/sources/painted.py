"""Imagery that is painted beyond its own resolution: a sketch of a country, or a satellite's overview, as a source."""

from __future__ import annotations

import numpy as np
import torch
from mercantile import Tile

from tilecascade.app.sources.source import Source, digest
from tilecascade.model.cascade import Mask, Pixels, Window
from tilecascade.model.engine.device import choose_dtype
from tilecascade.model.imagery.painter import ImageryCascade, OctavePainter, load_octaves
from tilecascade.model.sgdm.config import WEIGHTS_DIR

VERSION = 1
"""Counts changes of code that change painted pixels."""


class PaintedSource:
    """See `Source`. What the scenes, or another source, show as far as their resolution goes, and painted detail from
    there on."""

    def __init__(self, scenes: Source, zoom: int, seed: int) -> None:
        self.scenes = scenes
        self.bounds, self.center = scenes.bounds, scenes.center
        self.native_zoom = max(zoom, scenes.native_zoom)
        self.attribution = f"{scenes.attribution} (detail painted)".strip()
        self.id = digest((scenes.id, f"painted {VERSION} {zoom} {seed}"))
        painter = OctavePainter(load_octaves(WEIGHTS_DIR / "imagery"), seed, choose_dtype("auto", "cpu"))
        self._cascade = ImageryCascade(self._top, scenes.native_zoom, painter)

    def read(self, window: Window) -> tuple[Pixels, Mask]:
        """H x W x 3 uint8 colours and the H x W mask of where the scenes are."""
        levels = window.zoom - self.scenes.native_zoom
        if levels <= 0:
            return self.scenes.read(window)
        if torch.get_num_threads() != 1:  # of this thread; others generate maps
            torch.set_num_threads(1)
        whole = _aligned(window, levels)
        mask = self.scenes.read(whole.above(levels))[1].repeat(1 << levels, 0).repeat(1 << levels, 1)
        y, x = window.top - whole.top, window.left - whole.left
        return self._cascade.read(window), mask[y : y + window.height, x : x + window.width]

    def covers(self, tile: Tile) -> bool:
        """Whether any pixel of the tile has imagery."""
        return self.scenes.covers(tile)

    def id_at(self, tile: Tile) -> str:
        """See Source: detail depends on all that is around."""
        return self.id

    def _top(self, window: Window) -> Pixels:
        """The scenes' own pixels; their mean colour where there are none."""
        colours, known = self.scenes.read(window)
        if not known.all():
            colours = colours.copy()
            colours[~known] = colours[known].mean(axis=0).round().astype(np.uint8) if known.any() else 128
        return colours


def _aligned(window: Window, levels: int) -> Window:
    """The window as large as it takes to begin and end with pixels of so many levels above."""
    step = 1 << levels
    left, top = window.left // step * step, window.top // step * step
    right, bottom = (-(-side // step) * step for side in (window.left + window.width, window.top + window.height))
    return Window(window.zoom, left, top, right - left, bottom - top)
