"""What pairs of territories are worth: a small segmenter trained on them, scored on real tiles.

    python -m benchmarks.segmenter --real PAIRS TRAIN [TRAIN ...]

TRAIN is a folder with a manifest.csv (`tilecascade dataset generate`, `tilecascade dataset country`), REAL the supplied
pairs. The same network, seed, steps and number of pairs for each; prints mIoU of the five classes on the val tiles of
z15 to z17.
"""

from __future__ import annotations

import argparse
import csv
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from tilecascade.model.data.pairs import read_image
from tilecascade.model.palette import CLASSES, classify

WIDTHS = (24, 48, 96, 128)
CROP, BATCH, RATE = 128, 8, 2e-3
ZOOMS = (15, 16, 17)


class Segmenter(nn.Module):
    """A U-Net of four levels: imagery N x 3 x H x W in [-1, 1] -> N x classes x H x W."""

    def __init__(self) -> None:
        super().__init__()

        def block(before: int, after: int) -> nn.Module:
            layers = []
            for i in range(2):
                layers += [
                    nn.Conv2d(before if i == 0 else after, after, 3, padding=1),
                    nn.GroupNorm(8, after),
                    nn.SiLU(),
                ]
            return nn.Sequential(*layers)

        self.down = nn.ModuleList(block(a, b) for a, b in zip((3, *WIDTHS[:-1]), WIDTHS, strict=True))
        self.up = nn.ModuleList(block(a + b, a) for a, b in pairwise(WIDTHS))
        self.out = nn.Conv2d(WIDTHS[0], len(CLASSES), 1)

    def forward(self, x: Tensor) -> Tensor:
        """N x 3 x H x W -> N x classes x H x W."""
        kept = []
        for level, block in enumerate(self.down):
            x = block(F.avg_pool2d(x, 2) if level else x)
            kept.append(x)
        for level in reversed(range(len(self.up))):
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = self.up[level](torch.cat([kept[level], x], dim=1))
        return self.out(x)


def listed(folder: Path, split: str, source: str | None = None) -> list[tuple[np.ndarray, np.ndarray]]:
    """Imagery and classes of the pairs at ZOOMS."""
    with (folder / "manifest.csv").open() as lines:
        rows = [row for row in csv.DictReader(lines) if row["split"] == split and int(row["zoom"]) in ZOOMS]
    rows = [row for row in rows if source in (None, row["source"])]
    return [(read_image(folder / row["rs"]), classify(read_image(folder / row["map"]))) for row in rows]


def batch_of(pairs: list[tuple[np.ndarray, np.ndarray]], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Crops, turned and mirrored, in other light."""
    images, classes = [], []
    for index in rng.integers(len(pairs), size=BATCH):
        image, truth = pairs[index]
        y, x = rng.integers(0, image.shape[0] - CROP + 1, size=2)
        image, truth = (np.rot90(each[y : y + CROP, x : x + CROP], rng.integers(4)) for each in (image, truth))
        if rng.random() < 0.5:
            image, truth = image[:, ::-1], truth[:, ::-1]
        light = (image / 255.0) ** rng.uniform(0.7, 1.4) * rng.uniform(0.7, 1.2, 3) + rng.normal(0, 0.03, 3)
        images.append(light.clip(0, 1) * 2 - 1)
        classes.append(truth)
    return torch.from_numpy(np.stack(images)).float().permute(0, 3, 1, 2), torch.from_numpy(np.stack(classes)).long()


def trained(pairs: list[tuple[np.ndarray, np.ndarray]], steps: int) -> Segmenter:
    """A segmenter after so many steps; classes weigh by the root of how rare they are."""
    torch.manual_seed(0)
    net, rng = Segmenter(), np.random.default_rng(0)
    counts = np.bincount(np.concatenate([truth.ravel() for _, truth in pairs]), minlength=len(CLASSES))
    weight = torch.from_numpy((counts.sum() / (len(CLASSES) * np.maximum(counts, 1))) ** 0.5).float()
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for _ in tqdm(range(steps), unit="step"):
        images, truth = batch_of(pairs, rng)
        loss = F.cross_entropy(net(images), truth, weight)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()


@torch.inference_mode()
def score(net: Segmenter, pairs: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """IoU of each class over all pixels, and their mean."""
    matrix = np.zeros((len(CLASSES), len(CLASSES)))
    for image, truth in pairs:
        found = net(torch.from_numpy(image / 127.5 - 1).float().permute(2, 0, 1)[None]).argmax(1)[0].numpy()
        np.add.at(matrix, (truth.ravel(), found.ravel()), 1)
    shared = np.diag(matrix)
    iou = shared / np.maximum(matrix.sum(0) + matrix.sum(1) - shared, 1)
    return {"mIoU": float(iou.mean())} | dict(zip(CLASSES, iou.tolist(), strict=True))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", nargs="+", type=Path)
    parser.add_argument("--real", required=True, type=Path)
    parser.add_argument("--source", default="snezhinsk_osm")
    parser.add_argument("--steps", type=int, default=600)
    given = parser.parse_args()
    real = listed(given.real, "val", given.source)
    sets = {str(folder): listed(folder, "train") for folder in given.train}
    sets["real train pairs"] = listed(given.real, "train", given.source)
    least = min(len(pairs) for pairs in sets.values())
    print(f"{least} pairs each, {given.steps} steps, scored on {len(real)} real tiles\n")
    print("| trained on | " + " | ".join(["mIoU", *CLASSES]) + " |")
    print("|" + "---|" * (2 + len(CLASSES)))
    for name, pairs in sets.items():
        some = [pairs[i] for i in np.random.default_rng(0).permutation(len(pairs))[:least]]
        found = score(trained(some, given.steps), real)
        print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in found.values()) + " |", flush=True)


if __name__ == "__main__":
    main()
