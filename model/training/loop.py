"""The training loop of every stage: AdamW, warm-up and cosine, EMA, checkpoints, sample grids, JSONL log.

A run can be stopped at any moment and started again with the same command: each step takes its data and noise from
(seed, stage, step), so the resumed run is the run that was not interrupted.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import math
import os
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from tilecascade.model.data.pairs import Pixels
from tilecascade.model.training.config import StageConfig
from tilecascade.model.training.processes import Processes
from tilecascade.model.training.run_log import RunLog


class Task(Protocol):
    """What a stage has to define."""

    module: Any

    def groups(self) -> list[dict[str, object]]:
        """Parameter groups; `scale` multiplies the stage's learning rate."""
        ...

    def batch(self, rng: np.random.Generator) -> Any:
        """The data of one step."""
        ...

    def loss(self, batch: Any, generator: torch.Generator) -> tuple[Tensor, Mapping[str, float | Tensor]]:
        """The loss and what to log beside it."""
        ...

    def validate(self, module: Any) -> tuple[dict[str, float], Pixels]:
        """Metrics and a sample grid of the averaged weights."""
        ...


@runtime_checkable
class Refreshed(Protocol):
    """A task that makes some of its data from its own averaged weights, whenever these are kept."""

    def refresh(self, module: Any, step: int) -> None:
        """Make it anew, the same for the same weights and step."""
        ...


def update_average(average: nn.Module, module: nn.Module, decay: float, step: int) -> None:
    """Exponential moving average of weights and buffers, with a short memory at the start."""
    decay = min(decay, (1 + step) / (10 + step))
    both = zip(average.state_dict().values(), module.state_dict().values(), strict=True)
    pairs = [(mean, now) for mean, now in both if mean.is_floating_point()]
    with torch.no_grad():
        # all at once: a GPU would wait for each
        torch._foreach_lerp_([mean for mean, _ in pairs], [now for _, now in pairs], 1 - decay)
        for mean, now in zip(average.buffers(), module.buffers(), strict=True):
            if not mean.is_floating_point():
                mean.copy_(now)


def rate_factor(stage: StageConfig, step: int) -> float:
    """Linear warm-up, then cosine to 2 % of the rate."""
    if step < stage.warmup:
        return (step + 1) / stage.warmup
    done = (step - stage.warmup) / max(1, stage.steps - stage.warmup)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def exact_depthwise(module: nn.Module) -> None:
    """Let the depthwise convolutions of a module compute in float32 whatever autocast says.

    Their gradients in bfloat16 took a third of a step on a processor, four to eight times what float32 takes.
    """

    def exact(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return forward(x.float())

    for conv in module.modules():
        if isinstance(conv, nn.Conv2d) and conv.groups == conv.in_channels > 1:
            conv.forward = functools.partial(exact, conv.forward)  # type: ignore[method-assign]


def _save(path: Path, content: dict[str, object]) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save(content, temporary)
    os.replace(temporary, path)


def run(
    task: Task, stage: StageConfig, out: Path, seed: int, on_checkpoint: Callable[[int], None] = lambda step: None
) -> Any:
    """Train `task.module` for `stage.steps` steps; returns the averaged module (also in the checkpoint).

    on_checkpoint: called with the step when its checkpoint is written. One function, so that what a step takes from
    the steps before it is in sight.
    """
    processes = Processes(stage.device)
    torch.set_num_threads(stage.threads)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint, log = out / f"{stage.name}.ckpt", RunLog(out, stage)
    optimizer = torch.optim.AdamW(task.groups(), lr=stage.rate, weight_decay=stage.weight_decay)
    scales = [float(str(group.get("scale", 1.0))) for group in optimizer.param_groups]
    average = copy.deepcopy(task.module).eval()
    start = 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
        task.module.load_state_dict(saved["module"])
        average.load_state_dict(saved["average"])
        optimizer.load_state_dict(saved["optimizer"])
        start = saved["step"]
    stage_seed = zlib.crc32(stage.name.encode())

    def load(step: int) -> Any:
        own = [processes.rank] if processes.rank else []
        return task.batch(np.random.default_rng([seed, stage_seed, step, *own]))

    def keep(step: int) -> None:
        if not processes.first:
            return
        _save(
            checkpoint,
            {
                "module": task.module.state_dict(),
                "average": average.state_dict(),
                "optimizer": optimizer.state_dict(),
                "step": step,
                "stage": dataclasses.asdict(stage),
            },
        )
        on_checkpoint(step)
        metrics, grid = task.validate(average)
        log.picture(step, grid)
        if isinstance(task, Refreshed):
            task.refresh(average, step)
        log.write(step, {"validation": metrics})
        tqdm.write(f"{stage.name} step {step}: {json.dumps(metrics)}")

    if isinstance(task, Refreshed):
        task.refresh(average, start)
    task.module.train()
    if stage.bfloat16 and stage.device == "cpu":
        exact_depthwise(task.module)
    with ThreadPoolExecutor(1) as ahead:
        pending = ahead.submit(load, start) if start < stage.steps else None
        for step in tqdm(range(start, stage.steps), initial=start, total=stage.steps, desc=stage.name, mininterval=5):
            assert pending is not None
            batch = pending.result()
            due = (step + 1) % stage.checkpoint_every == 0 or step + 1 == stage.steps
            if not due:  # else what a task makes of its own weights comes first
                pending = ahead.submit(load, step + 1)
            for group, scale in zip(optimizer.param_groups, scales, strict=True):
                group["lr"] = stage.rate * scale * rate_factor(stage, step)
            generator = torch.Generator().manual_seed(seed * 1_000_003 + stage_seed + step + (processes.rank << 40))
            with torch.autocast(stage.device, torch.bfloat16, enabled=stage.bfloat16):
                loss, logged = task.loss(batch, generator)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            processes.average_gradients(task.module)
            norm = nn.utils.clip_grad_norm_(task.module.parameters(), 1.0)
            optimizer.step()
            update_average(average, task.module, stage.ema, step)
            if step % 20 == 0 and processes.first:
                told = {name: round(float(value), 5) for name, value in logged.items()}
                log.write(step, {"loss": round(float(loss.detach()), 5), "norm": round(float(norm), 4), **told})
            if due:
                keep(step + 1)
                pending = ahead.submit(load, step + 1)
    processes.wait()
    return average
