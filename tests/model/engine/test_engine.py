"""The pipeline is deterministic in every slot; the engine batches by stage and survives errors."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from tests.conftest import PLACE, picture
from tilecascade.model.cascade import Ladder, Pixels, WindowConfig
from tilecascade.model.conditions import Conditions, Stage
from tilecascade.model.engine import (
    BatchTooLargeError,
    Declined,
    EngineClosedError,
    LocalEngine,
    OutOfMemoryError,
    Priority,
    QueueFullError,
)
from tilecascade.model.engine.protocol import Prepare
from tilecascade.model.engine.queue import FairQueue
from tilecascade.model.pipeline import CascadePipeline
from tilecascade.model.sgdm.config import tiny
from tilecascade.model.sgdm.network import random_network


@pytest.fixture(scope="module")
def pipeline() -> CascadePipeline:
    return CascadePipeline(random_network(tiny()))


def conditions(seed: int, zoom: int = 14, windows: WindowConfig | None = None) -> tuple[Stage, Conditions]:
    from mercantile import Tile

    ladder = Ladder(14, windows=windows or tiny().windows)
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


@pytest.mark.slow
@pytest.mark.parametrize("zoom", [14, 16])
def test_the_same_block_alone_and_among_fifteen_others(pipeline: CascadePipeline, zoom: int) -> None:
    stage, mine = conditions(0, zoom)
    others = [conditions(i, zoom)[1] for i in range(1, 16)]
    alone = pipeline(stage, [mine] * 16)[0].pixels
    assert alone.shape == (stage.size, stage.size, 3)
    for slot in (6, 15):
        batch = [*others[:slot], mine, *others[slot:]]
        assert (pipeline(stage, batch)[slot].pixels == alone).all()
    assert (alone > 0).any()


def test_blocks_side_by_side_have_the_pixels_of_one_alone(pipeline: CascadePipeline) -> None:
    stage, _ = conditions(0, 16)
    blocks = [conditions(i, 16)[1] for i in range(6)]
    alone = [pipeline(stage, [block])[0].pixels for block in blocks]
    assert (alone[0] != alone[1]).any()
    before = torch.get_num_threads()
    torch.set_num_threads(3)  # as other code in this process may
    with ThreadPoolExecutor(3) as cores:
        together = list(cores.map(lambda block: pipeline(stage, [block])[0].pixels, blocks * 3))
    torch.set_num_threads(before)
    assert all((a == b).all() for a, b in zip(alone * 3, together, strict=True))


def test_seed_and_place_change_the_pixels(pipeline: CascadePipeline) -> None:
    stage, mine = conditions(0)
    other = Conditions(conditions(1)[1].window, mine.imagery, mine.imagery_known, None, None)
    base = pipeline(stage, [mine])[0].pixels
    assert (pipeline(Stage(stage.zoom, None, stage.size, seed=1), [mine])[0].pixels != base).any()
    assert (pipeline(stage, [other])[0].pixels != base).any()


def test_unknown_pixels_do_not_matter(pipeline: CascadePipeline) -> None:
    stage, mine = conditions(0)
    known = mine.imagery_known.copy()
    known[:100] = False
    garbage = mine.imagery.copy()
    garbage[:100] = 255 - garbage[:100]
    a = pipeline(stage, [Conditions(mine.window, mine.imagery, known, None, None)])[0].pixels
    assert (a == pipeline(stage, [Conditions(mine.window, garbage, known, None, None)])[0].pixels).all()


def test_weights_stored_as_they_are_multiplied_give_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    stage, mine = conditions(0, 16)
    stored = CascadePipeline(random_network(tiny()), dtype=torch.bfloat16)
    monkeypatch.setattr("tilecascade.model.pipeline.store_products_as", lambda part, dtype: None)
    converted = CascadePipeline(random_network(tiny()), dtype=torch.bfloat16)
    assert (stored(stage, [mine])[0].pixels == converted(stage, [mine])[0].pixels).all()
    here, there = (sum(p.nbytes for p in each.network.unet.parameters()) for each in (stored, converted))
    assert here < 0.6 * there
    kinds = {p.dtype for m in stored.network.unet.modules() if "Norm" in type(m).__name__ for p in m.parameters()}
    assert kinds == {torch.float32}


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
    """Stands for the pipeline: records batches, returns each window's seed. Waits until `go` is set."""

    def __init__(self, errors: Sequence[Exception] = ()) -> None:
        self.calls: list[tuple[Stage, int]] = []
        self.lefts: list[int] = []
        self.errors = list(errors)
        self.go = threading.Event()

    def __call__(self, stage: Stage, batch: Sequence[Conditions]) -> list[Pixels]:
        self.go.wait(5)
        self.calls.append((stage, len(batch)))
        if self.errors:
            raise self.errors.pop(0)
        if stage.zoom == 13:
            raise RuntimeError("out of luck")
        self.lefts.append(batch[0].window.left)
        return [np.full((1, 1, 3), item.window.left % 251, np.uint8) for item in batch]


def prepare(item: Conditions) -> Prepare:
    return lambda: item


def test_blocks_of_one_stage_are_generated_together_in_a_fixed_shape() -> None:
    generate = Recorder()
    engine = LocalEngine(generate, batch_size=4)
    jobs = [conditions(i % 3, 14 + i % 2) for i in range(10)]
    futures = [engine.submit(stage, prepare(item)) for stage, item in jobs]
    time.sleep(0.2)
    generate.go.set()
    engine.close()
    for (_, item), future in zip(jobs, futures, strict=True):
        assert future.result().output[0, 0, 0] == item.window.left % 251
    assert {size for _, size in generate.calls} == {4}
    assert sum(size * count for size, count in engine.batch_sizes.items()) == 10
    assert engine.batch_sizes.total() <= 6
    with pytest.raises(EngineClosedError):
        engine.submit(jobs[0][0], prepare(jobs[0][1]))


def test_an_error_fails_only_its_batch_and_one_in_preparing_only_its_window() -> None:
    generate = Recorder()
    generate.go.set()
    engine = LocalEngine(generate, batch_size=2)

    def broken() -> Conditions:
        raise OSError("the scene is gone")

    unread = engine.submit(Stage(14, None, 256), broken)
    bad = engine.submit(Stage(13, None, 256), prepare(conditions(0)[1]))
    stage, item = conditions(0)
    good = engine.submit(stage, prepare(item))
    assert good.result(5) is not None
    with pytest.raises(RuntimeError, match="out of luck"):
        bad.result(5)
    with pytest.raises(OSError, match="the scene is gone"):
        unread.result(5)
    engine.close()


def test_without_memory_it_goes_on_with_less_concurrency_and_then_fails_only_that_block() -> None:
    stage, item = conditions(0)
    missing = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
    for errors, concurrency in ((1, 2), (2, 1), (3, 1), (4, 1)):
        generate = Recorder([missing] * errors)
        generate.go.set()
        engine = LocalEngine(generate, concurrency=4)
        first = engine.submit(stage, prepare(item))
        if errors < 4:
            assert first.result(5) is not None
        else:
            with pytest.raises(OutOfMemoryError, match="one block"):
                first.result(5)
        assert engine.concurrency == concurrency
        assert engine.submit(stage, prepare(item)).result(5) is not None
        engine.close()


def test_a_batch_that_does_not_fit_is_never_tried_again() -> None:
    stage, item = conditions(0)
    generate, told = Recorder([MemoryError()] * 100), threading.Event()
    generate.go.set()
    engine = LocalEngine(generate, batch_size=4, on_too_large=told.set)
    with pytest.raises(BatchTooLargeError, match="4 blocks"):
        engine.submit(stage, prepare(item)).result(5)
    assert told.wait(5)
    assert len(generate.calls) == 2
    with pytest.raises(BatchTooLargeError):
        engine.submit(stage, prepare(item)).result(5)
    assert len(generate.calls) == 2
    engine.close()


def test_batches_that_run_out_of_memory_together_go_on_one_after_the_other() -> None:
    stage, item = conditions(0)
    both, lock = threading.Barrier(2), threading.Lock()
    calls, active, together = [0], [0], [0]

    def generate(stage: Stage, batch: Sequence[Conditions]) -> list[Pixels]:
        with lock:
            calls[0] += 1
            active[0] += 1
            first = calls[0] <= 2
        try:
            if first:
                both.wait(5)
                raise MemoryError
            together[0] = max(together[0], active[0])
            time.sleep(0.05)
            return [np.zeros((stage.size, stage.size, 3), np.uint8)]
        finally:
            with lock:
                active[0] -= 1

    engine = LocalEngine(generate, concurrency=2)
    futures = [engine.submit(stage, prepare(item)) for _ in range(2)]
    assert all(future.result(5).output.shape == (stage.size, stage.size, 3) for future in futures)
    assert (engine.concurrency, together[0]) == (1, 1)
    engine.close()


def test_someone_looking_goes_before_a_prefetch_that_came_first() -> None:
    generate = Recorder()
    engine = LocalEngine(generate)
    (stage, _), items = conditions(0), [conditions(i)[1] for i in range(12)]
    for item in items[:10]:
        engine.submit(stage, prepare(item), Priority.PREFETCH)
    time.sleep(0.1)
    engine.submit(stage, prepare(items[10]), Priority.INTERACTIVE)
    late = engine.submit(stage, prepare(items[11]), Priority.PREFETCH)
    engine.promote(late, Priority.INTERACTIVE)
    time.sleep(0.1)
    assert engine.state().waiting["prefetch"] >= 7
    generate.go.set()
    engine.close()
    # one had begun already
    assert generate.lefts[1:3] == [items[10].window.left, items[11].window.left]
    assert len(generate.lefts) == 12


def test_cancelled_blocks_are_not_generated() -> None:
    generate = Recorder()
    engine = LocalEngine(generate)
    (stage, _), items = conditions(0), [conditions(i)[1] for i in range(8)]
    futures = [engine.submit(stage, prepare(item)) for item in items]
    time.sleep(0.1)
    assert not futures[0].cancel()  # it has begun
    assert all(future.cancel() for future in futures[2:])
    generate.go.set()
    engine.close()
    assert generate.lefts == [item.window.left for item in items[:2]]
    assert engine.dropped == 6


def test_conditions_are_read_only_shortly_before_they_are_needed() -> None:
    generate = Recorder()
    engine = LocalEngine(generate)
    read: list[int] = []
    stage, item = conditions(0)

    def reading(i: int) -> Prepare:
        def read_one() -> Conditions:
            read.append(i)
            return item

        return read_one

    for i in range(20):
        engine.submit(stage, reading(i))
    time.sleep(0.3)
    assert len(read) <= 4
    generate.go.set()
    engine.close()
    assert sorted(read) == list(range(20))


def test_a_block_that_declines_is_not_generated_and_says_why() -> None:
    class Stored(Declined):
        pass

    generate, stored = Recorder(), Stored()
    generate.go.set()
    engine = LocalEngine(generate)
    assert engine.submit(Stage(14, None, 256), lambda: stored).result(5) is stored
    engine.close()
    assert not generate.calls


def test_a_full_queue_says_so() -> None:
    queue: FairQueue[str] = FairQueue({Priority.INTERACTIVE: 2, Priority.NEIGHBOUR: 1, Priority.PREFETCH: 1})
    queue.push("a", Priority.INTERACTIVE)
    queue.push("b", Priority.INTERACTIVE)
    queue.push("c", Priority.PREFETCH)
    for priority in (Priority.INTERACTIVE, Priority.PREFETCH):
        with pytest.raises(QueueFullError, match="try again"):
            queue.push("d", priority)
    queue.promote("c", Priority.INTERACTIVE)
    queue.push("d", Priority.PREFETCH)
    assert queue.counts() == {"interactive": 3, "neighbour": 0, "prefetch": 1}


def test_everyone_gets_a_share_and_nobody_saves_up() -> None:
    queue: FairQueue[tuple[Priority, int]] = FairQueue(dict.fromkeys(Priority, 10_000))
    for i in range(5000):
        for priority in Priority:
            queue.push((priority, i), priority)
    turns = []
    for _ in range(2000):
        turn, _ = queue.pop(lambda job: job, 1)
        queue.charge(turn, 0.1)
        turns.append(turn)
    shares = [turns.count(priority) / len(turns) for priority in Priority]
    assert shares == pytest.approx([0.8, 0.15, 0.05], abs=0.01)
    idle: FairQueue[int] = FairQueue()
    for i in range(100):
        idle.push(i, Priority.PREFETCH)
        turn, _ = idle.pop(lambda job: job, 1)
        idle.charge(turn, 5.0)
    idle.push(1000, Priority.PREFETCH)
    idle.push(1001, Priority.INTERACTIVE)
    # the prefetch paid for what it had while nobody else was there only once, and no one else has credit for it
    assert idle.pop(lambda job: job, 1)[0] == Priority.INTERACTIVE
    idle.charge(Priority.INTERACTIVE, 5.0)
    assert idle.pop(lambda job: job, 1)[0] == Priority.PREFETCH


def test_a_batch_is_filled_with_the_same_stage_whoever_asked() -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue()
    for i, (kind, priority) in enumerate(
        [("a", Priority.PREFETCH), ("b", Priority.INTERACTIVE), ("b", Priority.PREFETCH), ("b", Priority.NEIGHBOUR)]
    ):
        queue.push((kind, i), priority)
    turn, jobs = queue.pop(lambda job: job[0], 3)
    assert turn == Priority.INTERACTIVE
    assert jobs == [("b", 1), ("b", 3), ("b", 2)]
    assert queue.pop(lambda job: job[0], 3)[1] == [("a", 0)]
    with pytest.raises(IndexError):
        queue.pop(lambda job: job[0], 1)
