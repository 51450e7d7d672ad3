"""Recorded calls of the U-Net, with a recorder that needs no graphics processor."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from tilecascade.model.sgdm.graphs import MOST_GRAPHS, Graphed
from tilecascade.model.sgdm.sampler import TRAIN_STEPS


class Recorder:
    """Replays by calling again, into the one output tensor that a graph has."""

    def __init__(self, wrong: bool = False) -> None:
        self.recorded = self.replayed = 0
        self.wrong = wrong

    def __call__(self, call: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        self.recorded += 1
        output = call()

        def replay() -> None:
            self.replayed += 1
            if not self.wrong:
                output.copy_(call())

        return replay, output


def denoise(latent: Tensor, steps: Tensor, context: Tensor, features: Sequence[Tensor]) -> Tensor:
    return latent * steps.view(-1, 1, 1, 1) / TRAIN_STEPS + context.mean() + features[0].mean()


def call(seed: int, count: int = 2) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    g = torch.Generator().manual_seed(seed)
    return (
        torch.randn(count, 4, 8, 8, generator=g), torch.full((count,), seed), torch.randn(1, 3, 8, generator=g),
        [torch.randn(count, 2, 8, 8, generator=g)],
    )  # fmt: skip


def graphed(recorder: Any) -> Graphed:
    return Graphed(denoise, nullcontext, recorder)


def test_every_shape_is_recorded_once_and_gives_what_the_call_gives() -> None:
    recorder = Recorder()
    unet = graphed(recorder)
    outputs = [(unet(*call(seed, count)), denoise(*call(seed, count))) for count in (2, 3) for seed in range(5)]
    assert all(torch.equal(got, wanted) for got, wanted in outputs)  # none was overwritten by a later replay
    assert recorder.recorded == 2
    assert recorder.replayed == 2 * (5 + 1)


def test_a_graph_of_other_bytes_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder(wrong=True)
    unet = graphed(recorder)
    for seed in range(3):
        assert torch.equal(unet(*call(seed)), denoise(*call(seed)))
    assert (recorder.recorded, recorder.replayed) == (1, 1)
    assert "other bytes" in caplog.text


def test_what_cannot_be_recorded_runs_as_written(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(call: Callable[[], Tensor]) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    unet = graphed(refuse)
    assert torch.equal(unet(*call(1)), denoise(*call(1)))
    assert caplog.text.count("cannot be recorded") == 1


def test_graphs_are_few() -> None:
    recorder = Recorder()
    unet = graphed(recorder)
    for count in range(1, MOST_GRAPHS + 4):
        assert torch.equal(unet(*call(1, count)), denoise(*call(1, count)))
    assert recorder.recorded == MOST_GRAPHS


def test_threads_do_not_see_each_other_s_inputs() -> None:
    unet, wrong = graphed(Recorder()), []

    def work(seed: int) -> None:
        wrong.extend(seed for _ in range(50) if not torch.equal(unet(*call(seed)), denoise(*call(seed))))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
