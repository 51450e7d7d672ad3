"""Imagery that is painted beyond its own resolution: a sketch of a country, or a satellite's overview, as a source."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from mercantile import Tile
from PIL import Image

from tilecascade.app.sources.source import Source, digest
from tilecascade.model.cascade import Mask, Pixels, Window, tile_window
from tilecascade.model.engine.device import choose_dtype
from tilecascade.model.imagery.painter import ImageryCascade, OctavePainter, load_octaves
from tilecascade.model.sgdm.config import WEIGHTS_DIR

VERSION = 2
"""Counts changes of code that change painted pixels."""


class PaintedSource:
    """See `Source`. What the scenes, or another source, show as far as their resolution goes, and painted detail from
    there on."""

    def __init__(self, scenes: Source, zoom: int, seed: int, rejected: Path | None = None) -> None:
        """rejected: folder for what the gate rejects, if it is to be kept: examples of what imagery is not."""
        self.scenes, self._rejected = scenes, rejected
        self.bounds, self.center = scenes.bounds, scenes.center
        self.native_zoom = max(zoom, scenes.native_zoom)
        self.attribution = f"{scenes.attribution} (detail painted)".strip()
        self.id = digest((scenes.id, f"painted {VERSION} {zoom} {seed}"))
        net, gate = load_octaves(WEIGHTS_DIR / "imagery")
        painter = OctavePainter(net, seed, choose_dtype("auto", "cpu"), gate)
        self._cascade = ImageryCascade(self._top, scenes.native_zoom, painter, self._keep_rejected)

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

    @property
    def attempts(self) -> dict[int, int]:
        """Blocks by how often they were painted, since the start."""
        return dict(self._cascade.attempts)

    @property
    def unaccepted(self) -> int:
        """Blocks that no attempt brought into the gate's range, since the start."""
        return self._cascade.unaccepted

    def attempts_at(self, tile: Tile) -> int:
        """How often what a tile shows was painted; 0 if it is not painted."""
        return self._cascade.attempts_at(tile_window(tile))

    def _keep_rejected(self, window: Window, image: Pixels) -> None:
        if self._rejected is not None:
            self._rejected.mkdir(parents=True, exist_ok=True)
            digest = hashlib.sha256(image.tobytes()).hexdigest()[:8]
            name = f"{window.zoom}_{window.left}_{window.top}_{digest}.png"
            Image.fromarray(image).save(self._rejected / name)

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
