"""What a training run writes down: log.jsonl, pictures of validation tiles, and, if asked for, TensorBoard events."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from tilecascade.model.data.pairs import Pixels
from tilecascade.model.training.config import StageConfig


class RunLog:
    """The log of one stage in a run's folder; what a run that went on adds follows what is there.

    With `tensorboard` in the stage, numbers and pictures are also in FOLDER/tensorboard/STAGE. Raises ValueError if the
    package is not installed.
    """

    def __init__(self, folder: Path, stage: StageConfig) -> None:
        self._folder, self._stage = folder, stage.name
        self._board: Any = None
        if stage.tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise ValueError(
                    f"stage {stage.name} asks for tensorboard, which is not installed: "
                    "pip install 'tilecascade[tensorboard]'"
                ) from None
            self._board = SummaryWriter(folder / "tensorboard" / stage.name)

    def write(self, step: int, entry: Mapping[str, Any]) -> None:
        """Append an entry: numbers by name, or such mappings."""
        line = {"stage": self._stage, "time": round(time.time(), 1), "step": step, **entry}
        with (self._folder / "log.jsonl").open("a") as lines:
            lines.write(json.dumps(line) + "\n")
        if self._board is not None:
            for name, value in numbers(entry):
                self._board.add_scalar(name, value, step)

    def picture(self, step: int, image: Pixels) -> None:
        """Write a picture of validation tiles, H x W x 3."""
        Image.fromarray(image).save(self._folder / f"{self._stage}-{step:06d}.png")
        if self._board is not None:
            self._board.add_image("validation", image, step, dataformats="HWC")
            self._board.flush()


def numbers(entry: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of an entry; those of a mapping in it are named above/name."""
    for name, value in entry.items():
        if isinstance(value, Mapping):
            yield from numbers(value, f"{above}{name}/")
        elif isinstance(value, (int, float)):
            yield above + name, float(value)
