"""The pipeline is deterministic in every slot; the engine batches by stage and survives errors."""

import threading
from collections.abc import Sequence

import numpy as np
import pytest

from model.cascade import Ladder, Pixels
from model.engine import EngineClosedError, LocalEngine
from model.pipeline import CascadePipeline, Conditions, Stage
from model.sgdm.config import tiny
from model.sgdm.network import random_network
from tests.conftest import PLACE, picture


@pytest.fixture(scope="module")
def pipeline() -> CascadePipeline:
    return CascadePipeline(random_network(tiny()))


def conditions(seed: int, zoom: int = 14) -> tuple[Stage, Conditions]:
    from mercantile import Tile

    ladder = Ladder(14, windows=tiny().windows)
    shift = zoom - 14
    tile = Tile((PLACE.x + seed) << shift, PLACE.y << shift, zoom)
    block = ladder.block(tile)
    window = ladder.window(block)
    known = np.ones((window.height, window.width), dtype=bool)
    image = picture(window.width, seed)
    reference = zoom > 14
    return (
        Stage(zoom, ladder.reference_zoom(zoom), block.footprint().width),
        Conditions(window, image, known, image if reference else None, known if reference else None),
    )


@pytest.mark.parametrize("zoom", [14, 16])
def test_the_same_block_alone_and_among_fifteen_others(pipeline: CascadePipeline, zoom: int) -> None:
    stage, mine = conditions(0, zoom)
    others = [conditions(i, zoom)[1] for i in range(1, 16)]
    alone = pipeline(stage, [mine] * 16)[0]
    assert alone.shape == (stage.size, stage.size, 3)
    for slot in (0, 6, 15):
        batch = [*others[:slot], mine, *others[slot:]]
        assert (pipeline(stage, batch)[slot] == alone).all()
    assert (alone > 0).any()


def test_seed_and_place_change_the_drawing(pipeline: CascadePipeline) -> None:
    stage, mine = conditions(0)
    other = Conditions(conditions(1)[1].window, mine.imagery, mine.imagery_known, None, None)
    base = pipeline(stage, [mine])[0]
    assert (pipeline(Stage(stage.zoom, None, stage.size, seed=1), [mine])[0] != base).any()
    assert (pipeline(stage, [other])[0] != base).any()


def test_unknown_pixels_do_not_matter(pipeline: CascadePipeline) -> None:
    stage, mine = conditions(0)
    known = mine.imagery_known.copy()
    known[:100] = False
    garbage = mine.imagery.copy()
    garbage[:100] = 255 - garbage[:100]
    a = pipeline(stage, [Conditions(mine.window, mine.imagery, known, None, None)])[0]
    assert (a == pipeline(stage, [Conditions(mine.window, garbage, known, None, None)])[0]).all()


def test_conditions_that_do_not_fit_are_refused(pipeline: CascadePipeline) -> None:
    stage, mine = conditions(0)
    with pytest.raises(ValueError, match="at least one"):
        pipeline(stage, [])
    with pytest.raises(ValueError, match="takes a reference"):
        pipeline(Stage(15, 14, stage.size), [mine])
    with pytest.raises(ValueError, match="imagery must be"):
        pipeline(Stage(14, None, stage.size + 32), [mine])
    with pytest.raises(ValueError, match="multiple of 32"):
        pipeline(Stage(14, None, 250), [mine])


class Recorder:
    """Stands for the pipeline: records batches, returns each window's seed."""

    def __init__(self) -> None:
        self.calls: list[tuple[Stage, int]] = []
        self.go = threading.Event()

    def __call__(self, stage: Stage, batch: Sequence[Conditions]) -> list[Pixels]:
        self.go.wait(5)
        self.calls.append((stage, len(batch)))
        if stage.zoom == 13:
            raise RuntimeError("out of luck")
        return [np.full((1, 1, 3), item.window.left % 251, np.uint8) for item in batch]


def test_windows_of_one_stage_are_drawn_together_in_a_fixed_shape() -> None:
    draw = Recorder()
    engine = LocalEngine(draw, batch_size=4)
    jobs = [conditions(i % 3, 14 + i % 2) for i in range(10)]
    futures = [engine.submit(*job) for job in jobs]
    draw.go.set()
    engine.close()
    for (_, item), future in zip(jobs, futures, strict=True):
        assert future.result()[0, 0, 0] == item.window.left % 251
    assert {size for _, size in draw.calls} == {4}
    assert engine.windows == 10
    assert engine.batches <= 5
    with pytest.raises(EngineClosedError):
        engine.submit(*jobs[0])


def test_an_error_fails_only_its_batch() -> None:
    draw = Recorder()
    draw.go.set()
    engine = LocalEngine(draw, batch_size=2)
    bad = engine.submit(Stage(13, None, 256), conditions(0)[1])
    good = engine.submit(*conditions(0))
    assert good.result(5) is not None
    with pytest.raises(RuntimeError, match="out of luck"):
        bad.result(5)
    engine.close()
