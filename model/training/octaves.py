"""The network of imagery: octaves of detail by flow matching, then few steps that end where many would.

Any image is its own pair: the means of its 2 x 2 pixels are the condition, what they lack is the target. Resolutions
between the zooms come from images that are reduced by up to a half.
"""

from __future__ import annotations

import copy
import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from tilecascade.model.cascade import metres_per_pixel
from tilecascade.model.data.pairs import Pixels
from tilecascade.model.imagery.gate import learn_gate
from tilecascade.model.imagery.network import DEVIATION, OctaveConfig, OctaveNet, sample
from tilecascade.model.imagery.octave import join, split
from tilecascade.model.imagery.painter import save_octaves
from tilecascade.model.training.batches import unit_images
from tilecascade.model.training.config import StageConfig, TrainConfig
from tilecascade.model.training.diffusion import Discriminator, verdict
from tilecascade.model.training.loop import run
from tilecascade.model.training.stages import grid, logged
from tilecascade.model.training.tensor_augment import Augmenter, blur

TEACHER_STEPS = 12
"""Steps of the sampler whose results the distilled network learns to reach."""

ENLARGED = 18
"""Zoom of supplied pairs whose imagery is that of the zoom above, enlarged."""


@dataclass(frozen=True)
class Octaves:
    """One batch: detail of deviation 1, what lies above as it is shown to the network, as it is, and its sizes."""

    detail: Tensor
    shown: Tensor
    above: Tensor
    metres: Tensor
    degradation: Tensor


def read_images(config: TrainConfig, split_name: str) -> tuple[list[Pixels], list[float], list[float]]:
    """The imagery of all sources, and of each source's coarsest zoom the same reduced where four tiles make one; its
    metres per pixel and its weights."""
    images, metres, weights = [], [], []
    for source in config.data:
        rows = [
            row
            for row in csv.DictReader((source.pairs / "manifest.csv").open())
            if row["source"] == source.source and row["split"] == split_name and row["rs"]
            and (source.source == "country" or int(row["zoom"]) != ENLARGED)
        ]  # fmt: skip
        for row in rows:
            images.append(np.asarray(Image.open(source.pairs / row["rs"]).convert("RGB")))
            place = int(row["zoom"]), int(row["y"] or 0)
            metres.append(float(row.get("gsd_m") or metres_per_pixel(*place)))
            weights.append(source.share / len(rows))
        for image, size in _reduced(rows, source.pairs) if split_name == "train" else []:
            images.append(image)
            metres.append(size)
            weights.append(source.share / len(rows))
    return images, metres, weights


def _reduced(rows: list[dict[str, str]], folder: Path) -> list[tuple[Pixels, float]]:
    """Imagery of the two zooms above a source's coarsest one, with its metres per pixel."""
    placed = [row for row in rows if row["x"]]
    zoom = min((int(row["zoom"]) for row in placed), default=0)
    here = {
        (int(row["x"]), int(row["y"])): np.asarray(Image.open(folder / row["rs"]).convert("RGB"))
        for row in placed
        if int(row["zoom"]) == zoom
    }
    found = []
    for _ in range(2):
        above: dict[tuple[int, int], Pixels] = {}
        for x, y in {(x >> 1, y >> 1) for x, y in here}:
            below = [[here.get((2 * x + i, 2 * y + j)) for i in (0, 1)] for j in (0, 1)]
            known = [[tile for tile in row if tile is not None] for row in below]
            if all(len(row) == 2 for row in known):
                whole = Image.fromarray(np.concatenate([np.concatenate(row, axis=1) for row in known]))
                above[x, y] = np.asarray(whole.reduce(2))
        zoom, here = zoom - 1, above
        found += [
            (image, metres_per_pixel(zoom, y)) for (_, y), image in sorted(above.items(), key=lambda each: each[0])
        ]
    return found


class OctaveTask:
    """Flow matching: the straight way from noise to detail (Lipman et al. 2023)."""

    def __init__(self, net: OctaveNet, config: TrainConfig, stage: StageConfig) -> None:
        self.stage, self.device = stage, torch.device(stage.device)
        images, metres, weights = read_images(config, "train")
        self.images = torch.from_numpy(np.stack(images)).to(self.device)
        self.metres = torch.tensor(metres, device=self.device)
        self.weights = torch.tensor(weights)
        self.module: Any = nn.ModuleDict({"net": net, **self.more()}).to(self.device)
        self.module = self.module.to(memory_format=torch.channels_last)
        images, metres, _ = read_images(config, "val")
        some = slice(None, None, max(1, len(images) // 24))
        self.check = torch.from_numpy(np.stack(images[some][:24])).to(self.device)
        self.check_metres = torch.tensor(metres[some][:24], device=self.device)

    def more(self) -> dict[str, nn.Module]:
        """Other parts that are trained."""
        return {}

    def groups(self) -> list[dict[str, object]]:
        """All parameters alike."""
        return [{"params": list(self.module.parameters())}]

    def batch(self, rng: np.random.Generator) -> Octaves:
        """Crops of random images, turned, relit, reduced by one factor for all; what is above is made worse."""
        n, size = self.stage.batch, self.stage.crop
        host = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
        change = Augmenter(torch.Generator(self.device).manual_seed(int(rng.integers(1 << 62))))
        chosen = torch.multinomial(self.weights, n, replacement=True, generator=host).to(self.device)
        factor = float(rng.choice([1.0, 1.0, rng.uniform(1, 256 / size)]))
        edge = int(size * factor)
        top, left = (torch.randint(0, 257 - edge, (n,), generator=host).to(self.device) for _ in range(2))
        axis = torch.arange(edge, device=self.device)
        rows, columns = (top[:, None] + axis)[:, :, None], (left[:, None] + axis)[:, None, :]
        image = unit_images(self.images[chosen.view(-1, 1, 1), rows, columns])
        if edge != size:
            image = F.interpolate(image, size=(size, size), mode="bilinear", antialias=True)
        image = self._turned(image, rng)
        image = change.some(image.clamp(0, 1), 0.5, change.colours)
        above, detail = split(2 * image - 1)
        degradation = change.uniform(n) * (change.uniform(n) < 0.7)
        shown = self._degraded(above, degradation, change)
        metres = self.metres[chosen] * factor
        return Octaves(detail / DEVIATION, shown, above, metres, degradation)

    @staticmethod
    def _turned(image: Tensor, rng: np.random.Generator) -> Tensor:
        """One of eight symmetries, by quarter of the batch."""
        parts = []
        for part in image.chunk(4):
            part = torch.rot90(part, int(rng.integers(4)), (2, 3))
            parts.append(part.flip(3) if rng.random() < 0.5 else part)
        return torch.cat(parts)

    @staticmethod
    def _degraded(above: Tensor, degradation: Tensor, change: Augmenter) -> Tensor:
        """What generated parents are: softer, noisier, with traces of compression, the more the stronger."""
        strength = degradation.view(-1, 1, 1, 1)
        soft = above + strength * (blur(above, 1.2) - above)
        packed = 2 * change.packed((soft + 1) / 2) - 1
        soft = torch.where(change.uniform(len(above), 1, 1, 1) < 0.3 * strength.sign(), packed, soft)
        return soft + 0.08 * strength * change.uniform(len(above), 1, 1, 1) * change.normal(*above.shape)

    def loss(self, batch: Octaves, generator: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Squared error of the velocity."""
        n = len(batch.detail)
        time = torch.sigmoid(1.2 * torch.randn(n, generator=generator) + 0.4).to(self.device)
        noise = torch.randn(batch.detail.shape, generator=self._own(generator), device=self.device)
        t = time.view(-1, 1, 1, 1)
        velocity = self.module["net"](
            (1 - t) * batch.detail + t * noise, batch.shown, time, batch.metres, batch.degradation
        )
        error = (velocity.float() - (noise - batch.detail)).square()
        return error.mean(), logged({"velocity": error.mean()})

    def _own(self, generator: torch.Generator) -> torch.Generator:
        """A generator of the device, from one of the processor."""
        return torch.Generator(self.device).manual_seed(int(torch.randint(1 << 62, (), generator=generator)))

    def drawn(self, module: Any, steps: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of the check images: above, the true detail and the sampled one."""
        above, detail = split(2 * unit_images(self.check) - 1)
        noise = torch.randn(detail.shape, generator=torch.Generator().manual_seed(1)).to(self.device)
        still = torch.zeros(len(above), device=self.device)
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.stage.bfloat16):
            made = sample(module["net"], noise, above, self.check_metres, still, steps)
        return above, detail / DEVIATION, made.float()

    def validate(self, module: Any) -> tuple[dict[str, float], Pixels]:
        """How much detail there is, of the true one, and how far it is off, for several numbers of steps."""
        scores: dict[str, float] = {}
        pictures = [self.check.cpu().numpy()]
        for steps in (1, 2, 4, 12):
            above, detail, made = self.drawn(module, steps)
            scores[f"{steps}_power"] = round(float(made.square().mean() / detail.square().mean()), 3)
            scores[f"{steps}_error"] = round(float((made - detail).square().mean().sqrt()), 4)
            image = join(above, made * DEVIATION)
            pictures.append(((image.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy())
        pictures.append(
            ((F.interpolate(above, scale_factor=2.0, mode="bicubic").clamp(-1, 1) + 1) * 127.5)
            .round().byte().permute(0, 2, 3, 1).cpu().numpy()
        )  # fmt: skip
        return scores, grid([images[::3] for images in pictures])


class OctaveStepsTask(OctaveTask):
    """Few steps that end where the finished network's many do, from the same noise; a critic keeps them sharp.

    The second step begins at what the first has made, as it does in sampling.
    """

    def __init__(self, net: OctaveNet, config: TrainConfig, stage: StageConfig) -> None:
        self.teacher = copy.deepcopy(net).requires_grad_(False).to(stage.device).to(memory_format=torch.channels_last)
        super().__init__(net, config, stage)

    def more(self) -> dict[str, nn.Module]:
        """The critic: of an image and what lies above it."""
        return {"critic": Discriminator(48, 6)}

    def groups(self) -> list[dict[str, object]]:
        """The critic learns faster."""
        net, critic = (list(self.module[name].parameters()) for name in ("net", "critic"))
        return [{"params": net}, {"params": critic, "scale": 2.0, "betas": (0.5, 0.99)}]

    def loss(self, batch: Octaves, generator: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        """How far each step's result is from the teacher's, and what the critic says."""
        net, steps = self.module["net"], self.stage.sampled
        noise = torch.randn(batch.detail.shape, generator=self._own(generator), device=self.device)
        with torch.no_grad():
            wanted = sample(self.teacher, noise, batch.shown, batch.metres, batch.degradation, TEACHER_STEPS).float()
        total, state = noise.new_zeros(()), noise
        parts: dict[str, Tensor] = {}
        for step in range(steps):
            time = 1 - step / steps
            velocity = net(state, batch.shown, noise.new_full((len(noise),), time), batch.metres, batch.degradation)
            made = (state - time * velocity).float()
            off = F.smooth_l1_loss(made, wanted)
            score, _, hinge = self._judged(batch, made)
            share = self.stage.critic * self._ratio(off, score)
            parts |= {f"off_{step}": off, f"score_{step}": score, f"hinge_{step}": hinge, f"share_{step}": share}
            total = total + off - share * score + hinge
            state = (state - velocity / steps).detach()
        return total, logged(parts)

    def _ratio(self, off: Tensor, score: Tensor) -> Tensor:
        """What the score is multiplied by to pull the last layer as hard as the teacher does (Esser et al. 2021)."""
        last = self.module["net"].out.weight
        wanted, judged = (torch.autograd.grad(x, last, retain_graph=True)[0].float().norm() for x in (off, score))
        return (wanted / (judged + 1e-6)).clamp(max=10.0).detach()

    def _judged(self, batch: Octaves, made: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        wide = F.interpolate(batch.above, scale_factor=2.0, mode="nearest")
        fake, real = (
            torch.cat([(join(batch.above, detail * DEVIATION) - wide) / DEVIATION, wide], 1)
            for detail in (made, batch.detail)
        )
        return verdict(self.module["critic"], fake, real)


def train_octaves(config: TrainConfig, shape: OctaveConfig | None = None) -> Path:
    """Run the stages of a configuration of the network of imagery; returns the stem of the network."""
    torch.manual_seed(config.seed)
    net = OctaveNet(shape or OctaveConfig())
    for stage in config.stages:
        task = (OctaveStepsTask if stage.name == "octave_steps" else OctaveTask)(net, config, stage)
        average = run(task, stage, config.out, config.seed)
        net.load_state_dict(average["net"].state_dict())
        net = net.to("cpu")
    images, metres, _ = read_images(config, "train")
    save_octaves(net, config.out / "imagery", learn_gate(images, metres))
    return config.out / "imagery"
