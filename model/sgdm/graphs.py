"""The U-Net on a graphics processor as a CUDA graph: its kernels are recorded once and launched together ever after.

A step of a small U-Net is over before the processor has launched its hundreds of kernels one by one. A graph runs the
same kernels on the same addresses, so the bytes are the same; this is checked for every graph before it is used.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

log = logging.getLogger(__name__)

Denoise = Callable[[Tensor, Tensor, Tensor, Sequence[Tensor]], Tensor]
Record = Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]]
"""Records a call: what runs it again, and the tensor that each run writes."""

WARM_UPS = 3
"""Calls before recording, in which the libraries choose their algorithms."""

MOST_GRAPHS = 8
"""Each graph keeps the memory of its own shapes."""


def record_cuda(call: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """A Record for CUDA devices. Raises RuntimeError if something in the call cannot be recorded."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        output = call()
    return graph.replay, output


@dataclass(frozen=True)
class _Recorded:
    inputs: list[Tensor]
    replay: Callable[[], None]
    output: Tensor


class Graphed:
    """A denoiser whose calls are replayed where they can be; see `InjectedUNet.forward` for what it takes.

    One call runs at a time, because a graph has one set of inputs. What cannot be recorded, or does not give the same
    bytes, runs as it is written; so do shapes beyond MOST_GRAPHS.
    """

    def __init__(self, denoise: Denoise, precision: Callable[[], torch.autocast], record: Record = record_cuda) -> None:
        """precision: the autocast context of a call."""
        self._denoise, self._precision, self._record = denoise, precision, record
        self._graphs: dict[tuple[object, ...], _Recorded | None] = {}
        self._lock = threading.Lock()

    def __call__(self, latent: Tensor, steps: Tensor, context: Tensor, features: Sequence[Tensor]) -> Tensor:
        """The output of the denoiser, for the caller to keep."""
        given = [latent, steps, context, *features]
        key = tuple((each.shape, each.stride(), each.dtype) for each in given)
        with self._lock:
            if key not in self._graphs:
                self._graphs[key] = self._recorded(given) if len(self._graphs) < MOST_GRAPHS else None
            graph = self._graphs[key]
            if graph is None:
                return self._run(given)
            return self._replayed(graph, given)

    def _run(self, given: Sequence[Tensor]) -> Tensor:
        latent, steps, context, *features = given
        with self._precision():
            return self._denoise(latent, steps, context, features)

    def _replayed(self, graph: _Recorded, given: Sequence[Tensor]) -> Tensor:
        for own, value in zip(graph.inputs, given, strict=True):
            own.copy_(value)
        graph.replay()
        return graph.output.clone()

    def _recorded(self, given: Sequence[Tensor]) -> _Recorded | None:
        """The graph of a call; None if there can be none."""
        inputs = [each.clone() for each in given]
        try:
            replay, output = self._record(lambda: self._run(inputs))
            graph = _Recorded(inputs, replay, output)
            other = [each / 2 if each.is_floating_point() else each for each in given]  # not what was recorded
            if torch.equal(self._replayed(graph, other), self._run(other)):
                return graph
            log.warning("a CUDA graph of the U-Net gives other bytes than its calls; going on without it")
        except RuntimeError as error:
            log.warning("the U-Net cannot be recorded as a CUDA graph (%s); going on without it", error)
        return None
