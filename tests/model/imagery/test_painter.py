"""Painted imagery: what is above is kept, any order gives the same, and there is no grid of blocks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import picture
from tilecascade.model.cascade import Mask, Pixels, Window
from tilecascade.model.imagery.gate import Gate
from tilecascade.model.imagery.network import OctaveNet, sample, times
from tilecascade.model.imagery.octave import CHANNELS, join, split
from tilecascade.model.imagery.painter import (
    BLOCK,
    MARGIN,
    ImageryCascade,
    OctavePainter,
    load_octaves,
    save_octaves,
)
from tilecascade.model.sgdm.config import WEIGHTS_DIR

TOP = 12
SKETCH = picture(512, 3)
LEFT, TOP_ROW = 300_000, 200_000


def sketch(window: Window) -> tuple[Pixels, Mask]:
    """A picture that goes on for ever, by repeating itself."""
    assert window.zoom == TOP
    rows = (np.arange(window.top, window.top + window.height) - TOP_ROW) % 512
    columns = (np.arange(window.left, window.left + window.width) - LEFT) % 512
    return SKETCH[rows[:, None], columns[None]], np.ones((window.height, window.width), dtype=np.bool_)


def window(zoom: int, x: int = 64, y: int = 64, edge: int = 256) -> Window:
    """A window near the middle of the sketch, at pixels (x, y) of the top zoom from its corner."""
    scale = 1 << (zoom - TOP)
    return Window(zoom, (LEFT + x) * scale, (TOP_ROW + y) * scale, edge, edge)


def cascade(net: OctaveNet, seed: int = 1) -> ImageryCascade:
    return ImageryCascade(sketch, TOP, OctavePainter(lambda: (net, Gate())), seed)


def pixels(source: ImageryCascade, place: Window) -> Pixels:
    return source.read(place)[0]


def test_an_image_is_its_means_and_its_detail() -> None:
    image = torch.rand(2, 3, 16, 24) * 2 - 1
    coarse, detail = split(image)
    assert coarse.shape == (2, 3, 8, 12)
    assert detail.shape == (2, CHANNELS, 8, 12)
    assert torch.allclose(join(coarse, detail), image, atol=1e-6)
    assert torch.allclose(coarse, torch.nn.functional.avg_pool2d(image, 2), atol=1e-6)


def test_sampling_is_deterministic_and_follows_the_velocity(net: OctaveNet) -> None:
    assert times(4) == [1.0, 0.75, 0.5, 0.25]
    noise, above = torch.randn(1, CHANNELS, 16, 16), torch.zeros(1, 3, 16, 16)
    metres, trust = torch.tensor([1.2]), torch.tensor([0.0])
    with torch.no_grad():
        one, two = (sample(net, noise, above, metres, trust, 2) for _ in range(2))
        assert torch.equal(one, two)
        velocity = net(noise, above, torch.ones(1), metres, trust)
        assert torch.allclose(sample(net, noise, above, metres, trust, 1), noise - velocity)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_the_mean_of_painted_pixels_is_the_pixel_above(net: OctaveNet, levels: int) -> None:
    made = pixels(cascade(net), window(TOP + levels)).astype(np.float64)
    step = 1 << levels
    means = made.reshape(256 // step, step, 256 // step, step, 3).mean((1, 3))
    above = sketch(window(TOP, edge=256 // step))[0]
    assert np.abs(means - above).max() < 1.0, "but for rounding"
    assert made.std() > sketch(window(TOP))[0].std() * 0.5


def test_any_order_gives_the_same_pixels(net: OctaveNet) -> None:
    # windows that lie across borders of blocks, at several zooms
    wanted = [window(TOP + 2, x, y) for x, y in ((90, 90), (120, 64), (64, 126))] + [window(TOP + 3), window(TOP + 1)]
    results = []
    for order in (wanted, wanted[::-1]):
        source = cascade(net)
        results.append({place: pixels(source, place) for place in order})
    assert all((results[0][place] == results[1][place]).all() for place in wanted)
    whole = pixels(cascade(net), window(TOP + 2, 64, 64, 512))
    place = window(TOP + 2, 90, 90)
    y, x = place.top - window(TOP + 2).top, place.left - window(TOP + 2).left
    assert (whole[y : y + 256, x : x + 256] == results[0][place]).all()


def test_another_seed_gives_other_detail_of_the_same_imagery(net: OctaveNet) -> None:
    one, other = (pixels(cascade(net, seed), window(TOP + 2)).astype(float) for seed in (1, 2))
    assert np.abs(one - other).mean() > 1
    means = [image.reshape(64, 4, 64, 4, 3).mean((1, 3)) for image in (one, other)]
    assert np.abs(means[0] - means[1]).max() < 1.5


def test_a_stored_network_is_the_same(net: OctaveNet, tmp_path: Path) -> None:
    gate = Gate(((1.0, (-1.0, -1.0, -1.0), (0.5, 0.5, 0.5)),))
    save_octaves(net, tmp_path / "octaves", gate)
    again, its_gate = load_octaves(tmp_path / "octaves")
    assert its_gate == gate
    assert again.config == net.config
    assert all(torch.allclose(a, b, atol=1e-3) for a, b in zip(net.parameters(), again.parameters(), strict=True))


@pytest.mark.slow
def test_the_shipped_network_paints_detail_without_a_grid() -> None:
    """Means are kept, detail grows octave by octave, and steps at the borders of blocks are those of elsewhere."""
    source = cascade(load_octaves(WEIGHTS_DIR / "imagery")[0])
    size = 2 * BLOCK
    corner = (BLOCK - (TOP_ROW * 4) % BLOCK) % BLOCK, (BLOCK - (LEFT * 4) % BLOCK) % BLOCK
    place = Window(TOP + 2, LEFT * 4 + corner[1], TOP_ROW * 4 + corner[0], size, size)
    made = pixels(source, place).astype(np.float64)
    above = pixels(source, place.above(1)).astype(np.float64)
    assert np.abs(made.reshape(BLOCK, 2, BLOCK, 2, 3).mean((1, 3)) - above).max() < 1.0
    steps = np.abs(np.diff(made, axis=1)).mean(axis=(0, 2))
    # the border lies between an odd and an even pixel, as every second step does
    others = np.delete(steps[1::2], BLOCK // 2 - 1)
    assert steps[BLOCK - 1] < np.quantile(others, 0.99) * 1.05
    assert made.std() > above.std()
    assert MARGIN % 4 == 0
