"""`tilecascade finetune`: the network in another area and another map style, from imagery and a map of some of it."""

from __future__ import annotations

import copy
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tilecascade.app.errors import SettingsError
from tilecascade.app.tools.dataset import build
from tilecascade.app.tools.model_files import describe
from tilecascade.model.cascade import Pixels
from tilecascade.model.data.alignment import estimate_offsets
from tilecascade.model.data.pairs import Pair, read_pairs
from tilecascade.model.data.style import learn_palette
from tilecascade.model.evaluation.features import kernel_distance, offline_network
from tilecascade.model.evaluation.metrics import luma, psnr
from tilecascade.model.evaluation.teacher_forced import PairEvaluation, compare_pairs
from tilecascade.model.pipeline import CascadePipeline
from tilecascade.model.sgdm.config import STEM
from tilecascade.model.sgdm.network import load_network
from tilecascade.model.training.config import DataConfig, StageConfig, TrainConfig
from tilecascade.model.training.loop import exact_depthwise, update_average
from tilecascade.model.training.run import start_network, train
from tilecascade.model.training.samples import STYLE, SampleSource
from tilecascade.model.training.style import StyleTask

SHOWN = 8
"""Held-out tiles in the picture."""

LEAST_PAIRS = 20
"""Fewer pairs teach a network nothing but themselves."""

MOST_SHIFTED = 8
"""An offset between imagery and map of more pixels of z17 is worth a look at the pairs."""

TIMED_STEPS = 5
"""Steps that say how many fit into the time, by the fastest: the first ones are slower than all that follow."""

LEAST_STEPS = 4
"""However little time there is."""

PART = 0.85
"""Part of the time that is for steps; the rest is for checkpoints and their pictures."""


@dataclass(frozen=True)
class FineTuning:
    """What is to be learned.

    pairs, source: a folder of pairs as `tilecascade dataset build` writes it, and the source in its manifest. start:
    the network to begin with. minutes: for training; measuring takes some more. out: the model folder.
    """

    pairs: Path
    source: str
    start: Path
    minutes: float
    out: Path


def cut_pairs(scene: Path, map_source: Path, zooms: range, val_share: float, out: Path) -> Path:
    """Cut pairs of a scene and a map into a folder of the run; once, unless something else is wanted.

    Raises SceneError or SettingsError.
    """
    folder = out / "run" / "pairs"
    stored = json.dumps([str(scene), str(map_source), list(zooms), val_share])
    cut = folder / "cut-from.json"
    if not cut.is_file() or cut.read_text() != stored:
        if (out / "run" / "run.json").is_file():
            raise SettingsError(f"{out} holds a run of other pairs; choose another folder for --out")
        shutil.rmtree(folder, ignore_errors=True)
        counts = build(scene, map_source, zooms, folder, "own", val_share)
        cut.write_text(stored)
        print(", ".join(f"{split}: {count} pairs" for split, count in counts.items()))
    return folder


def finetune(wanted: FineTuning) -> dict[str, Any]:
    """Train, measure before and after on held-out tiles, and write the model folder; returns the report.

    A run that was interrupted goes on where it stopped. Raises SettingsError with a sentence.
    """
    try:
        taught, held_out = (read_pairs(wanted.pairs, wanted.source, split, reading=STYLE) for split in ("train", "val"))
    except (ValueError, OSError) as error:
        raise SettingsError(f"{error}; a split `val` is needed to measure with (--val-share)") from None
    if len(taught) < LEAST_PAIRS:
        raise SettingsError(f"there are {len(taught)} pairs to learn from; at least {LEAST_PAIRS} are needed")
    shifts = say_alignment(taught)
    run = wanted.out / "run"
    config = configuration(wanted, taught, run)
    network = Path(train(config))
    report = measure(held_out, {"before": wanted.start, "after": network}, wanted.out)
    for suffix in (".json", ".safetensors"):
        shutil.copyfile(network.with_suffix(suffix), (wanted.out / STEM).with_suffix(suffix))
    report |= {"pairs": len(taught), "steps": config.stages[0].steps, "minutes": wanted.minutes, "offsets_z17": shifts}
    (wanted.out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    print(f"{sentence(report)}\npicture (imagery, before, after, ground truth): {wanted.out / 'held-out.png'}")
    print(describe(wanted.out))
    return report


def say_alignment(pairs: Sequence[Pair]) -> list[list[int]]:
    """Say how far the map lies from the imagery, which is corrected; the offsets by area in pixels of z17."""
    offsets = estimate_offsets(pairs)
    if not offsets:
        print("alignment: not checked, because there are no pairs of z16 or z17")
        return []
    values = np.array(list(offsets.values()))
    dx, dy = np.median(values, axis=0)
    print(f"alignment: {len(values)} areas, median offset {dx:.0f}, {dy:.0f} px at z17, corrected by area")
    if np.abs(values).max() > MOST_SHIFTED:
        print(f"alignment: up to {np.abs(values).max()} px; look at the pairs: is it the same place and projection?")
    return [[int(x), int(y)] for x, y in values]


def configuration(wanted: FineTuning, taught: Sequence[Pair], run: Path) -> TrainConfig:
    """The training run; its number of steps is measured once and kept, so that it can be resumed."""
    kept = run / "run.json"
    palette = learn_palette([pair.map for pair in taught])
    config = TrainConfig(
        preset="default",
        data=(DataConfig(wanted.pairs, wanted.source, reading=STYLE),),
        out=run,
        init=wanted.start,
        spans=(1,),
        palette=palette,
    )
    stage = StageConfig(
        "style", 0, batch=8, rate=1e-3, warmup=40, ema=0.995, bfloat16=True, backbone_rate=0.2, critic=0.3,
        reference_dropout=0.4, self_reference=0.5, degraded=0.6,
    )  # fmt: skip
    if not kept.is_file():
        seconds = seconds_per_step(config, stage)
        steps = max(LEAST_STEPS, int(PART * wanted.minutes * 60 / seconds))
        run.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps({"steps": steps, "seconds_per_step": round(seconds, 3)}))
        print(f"{seconds:.2f} s a step: {steps} steps of {stage.batch} tiles in {wanted.minutes:g} minutes")
    steps = json.loads(kept.read_text())["steps"]
    every = max(20, steps // 8)
    return replace(config, stages=(replace(stage, steps=steps, checkpoint_every=every),))


def seconds_per_step(config: TrainConfig, stage: StageConfig) -> float:
    """How long a step takes here, with all that belongs to one."""
    torch.set_num_threads(stage.threads)
    network, source = start_network(config), SampleSource(config, "train")
    task = StyleTask(network, source, source, stage)
    exact_depthwise(task.module)
    average, optimizer = copy.deepcopy(task.module), torch.optim.AdamW(task.groups(), lr=0.0)
    times = []
    for step in range(TIMED_STEPS):
        began = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=stage.bfloat16):
            loss, _ = task.loss(task.batch(np.random.default_rng(step)), torch.Generator().manual_seed(step))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        update_average(average, task.module, stage.ema, step)
        times.append(time.perf_counter() - began)
    return min(times)


def measure(pairs: list[Pair], networks: dict[str, Path], out: Path) -> dict[str, Any]:
    """PSNR_Y and KID of held-out tiles that each network generates from imagery alone; writes held-out.png."""
    offsets = estimate_offsets(pairs)
    features = offline_network()
    report: dict[str, Any] = {"held_out": len(pairs), "features": "none" if features is None else features.description}
    truth = [pair.map for pair in pairs]
    rows: list[list[Pixels]] = []
    zooms = range(min(p.zoom for p in pairs), max(p.zoom for p in pairs) + 1)
    for name, stem in networks.items():
        wanted = PairEvaluation(out, "", "val", zooms, out, span=0)
        found = compare_pairs(CascadePipeline(load_network(stem)), pairs, offsets, wanted)
        images = [each.images["generated"] for each in found]
        if features is not None:
            distance = kernel_distance(features(quarters(images)), features(quarters(truth)))
            report[f"kid_x1000_{name}"] = round(1000 * distance, 1)
        scores = [psnr(luma(image), luma(pair.map)) for image, pair in zip(images, pairs, strict=True)]
        report[f"psnr_y_{name}"] = round(float(np.mean(scores)), 2)
        rows.append(images)
    some = range(0, len(pairs), max(1, len(pairs) // SHOWN))
    columns = [[pairs[i].imagery, *(images[i] for images in rows), truth[i]] for i in list(some)[:SHOWN]]
    Image.fromarray(np.concatenate([np.concatenate(column) for column in columns], axis=1)).save(out / "held-out.png")
    return report


def quarters(images: Sequence[Pixels]) -> list[Pixels]:
    """The four quarters of each image, enlarged to its size: so many more samples for a distance of few tiles."""
    parts = [image[y : y + 128, x : x + 128] for image in images for y in (0, 128) for x in (0, 128)]
    return [np.asarray(Image.fromarray(part).resize((256, 256), Image.Resampling.BICUBIC)) for part in parts]


def sentence(report: dict[str, Any]) -> str:
    """The report for people."""
    text = (
        f"{report['held_out']} held-out tiles, from imagery alone: PSNR_Y {report['psnr_y_before']} dB before, "
        f"{report['psnr_y_after']} after"
    )
    if "kid_x1000_after" in report:
        text += f"; KID x 1000 of quarters {report['kid_x1000_before']} before, {report['kid_x1000_after']} after"
    return text
