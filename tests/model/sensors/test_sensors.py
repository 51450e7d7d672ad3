"""Other sensors: what they see, as simulated, and stems that give it colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tilecascade.model.palette import CLASSES
from tilecascade.model.sensors.modality import MODALITIES, SENSORS, of_decibels, sensor_named
from tilecascade.model.sensors.simulate import greenness, simulate
from tilecascade.model.sensors.stem import REACH, Stem, colours, load_stem, save_stems


def random_stem(sensor: str) -> Stem:
    """A stem with random weights that does something."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        stem = Stem(sensor_named(sensor), (8, 12, 16)).eval()
        for parameter in stem.parameters():
            torch.nn.init.normal_(parameter, 0.0, 0.15)
    return stem


def test_radar_tells_water_from_woods_and_corners_from_all() -> None:
    classes = np.full((128, 128), CLASSES.index("land"), dtype=np.uint8)
    classes[:, :40] = CLASSES.index("water")
    classes[50:70, 90:110] = CLASSES.index("building")
    image = np.full((128, 128, 3), 130, dtype=np.uint8)
    seen = simulate("sar", image, classes, np.random.default_rng(1))
    assert seen.shape == (1, 128, 128)
    assert seen.dtype == np.float32
    assert 0 <= seen.min() < seen.max() <= 1
    water, land, house = seen[0, :, :36].mean(), seen[0, 80:, 50:].mean(), seen[0, 48:72, 88:112].max()
    assert water < land - 0.15
    assert house > land + 0.25
    assert seen[0, 80:, 50:].std() > 0.03, "speckle"
    again = simulate("sar", image, classes, np.random.default_rng(1))
    assert (seen == again).all()


def test_plants_are_bright_in_near_infrared_and_water_is_dark() -> None:
    image = np.full((64, 64, 3), (120, 120, 120), dtype=np.uint8)
    image[:, 32:] = (60, 110, 50)
    classes = np.zeros((64, 64), dtype=np.uint8)
    classes[:16] = CLASSES.index("water")
    seen = simulate("nir", image, classes, np.random.default_rng(1))
    assert seen.shape == (4, 64, 64)
    assert np.allclose(seen[:3], image.transpose(2, 0, 1) / 255, atol=1e-6)
    assert seen[3, 20:, 34:].mean() > seen[3, 20:, :30].mean() + 0.05
    assert seen[3, :16].mean() < 0.15
    green = greenness(image / 255)
    assert green[0, 0] < 0.2 < 0.8 < green[0, 40]
    assert simulate("pan", image, classes, np.random.default_rng(1)).shape == (1, 64, 64)
    assert simulate("rgb", image, classes, np.random.default_rng(1)).shape == (3, 64, 64)


def test_backscatter_is_cut_off_at_both_ends() -> None:
    assert of_decibels(np.array([-100.0, -30.0, -11.0, 8.0, 100.0])).tolist() == [0, 0, 0.5, 1, 1]


@pytest.mark.parametrize("sensor", SENSORS)
def test_windows_of_a_stem_agree(sensor: str) -> None:
    stem = random_stem(sensor)
    bands = np.random.default_rng(2).random((MODALITIES[sensor_named(sensor)].bands, 160, 192), dtype=np.float32)
    whole = colours(stem, bands)
    part = colours(stem, bands[:, 24:, 40:])
    inside = part[REACH:-REACH, REACH:-REACH]
    assert (inside == whole[24 + REACH : -REACH, 40 + REACH : -REACH]).all()
    assert inside.std() > 2


def test_stems_are_stored_together(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        stems = {sensor_named(name): Stem(sensor_named(name)) for name in ("sar", "pan")}
    for stem in stems.values():
        torch.nn.init.normal_(stem.out.weight)
    save_stems(stems, tmp_path / "sensors")
    bands = np.random.default_rng(2).random((1, 64, 64), dtype=np.float32)
    close = colours(load_stem(tmp_path / "sensors", "sar"), bands).astype(int) - colours(stems["sar"], bands)
    assert np.abs(close).mean() < 0.2
    with pytest.raises(ValueError, match="stems for sar, pan, and none for nir"):
        load_stem(tmp_path / "sensors", "nir")
    with pytest.raises(ValueError, match="a sensor is one of rgb"):
        sensor_named("lidar")
