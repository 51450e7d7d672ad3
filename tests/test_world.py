"""The fictional town: deterministic, and served when the user brings no scene."""

from pathlib import Path

import numpy as np
import pytest

from app.demo import PLACE, demo_scene
from app.imagery import SceneImagery, open_scene, tile_window
from app.settings import SettingsError
from model.world.town import draw_town


def test_same_seed_same_bytes() -> None:
    a, b, c = draw_town(1, 512), draw_town(1, 512), draw_town(2, 512)
    assert (a == b).all()
    assert (a != c).any()
    assert a.std() > 15


def test_the_demo_scene_is_a_scene(tmp_path: Path) -> None:
    path = demo_scene(tmp_path)
    assert demo_scene(tmp_path) == path
    imagery = SceneImagery([open_scene(path)])
    pixels, known = imagery.read(tile_window(PLACE))
    assert imagery.native_zoom == 17
    assert known.all()
    assert np.abs(pixels.astype(int) - draw_town().reshape(256, 8, 256, 8, 3).mean(axis=(1, 3))).mean() < 3


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(SettingsError, match="cannot be written"):
        demo_scene(blocker)
