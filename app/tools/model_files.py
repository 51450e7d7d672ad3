"""`tilecascade model`: models of others as ours, ours in one file, and what is in a model."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tilecascade.app.errors import SettingsError
from tilecascade.model.blending import SIDE
from tilecascade.model.sgdm.config import STEM, stem_of
from tilecascade.model.sgdm.importing import import_diffusers, import_published
from tilecascade.model.sgdm.network import (
    SGDM,
    load_description,
    load_network,
    pack_network,
    save_network,
    stored_values,
    unpack_network,
    weights_hash,
)


@dataclass(frozen=True)
class ImportOptions:
    """sampler, steps: what is written into the configuration instead of the published ones. head: channels of an
    attention head of a published checkpoint. half: store as float16."""

    sampler: Literal["ddim", "ddpm", "dpmpp"] | None = None
    steps: int | None = None
    head: int = 64
    half: bool = False


def import_model(source: Path, out: Path, options: ImportOptions) -> str:
    """Write the model folder `out` from a checkpoint, a diffusers folder or a model of ours; returns what to say.

    Nothing is left in `out` if it fails. Raises SettingsError with a sentence.
    """
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        raise SettingsError(f"{out} exists already and is not empty; choose another folder for --out")
    if not source.exists() and not stem_of(source).with_suffix(".safetensors").is_file():
        raise SettingsError(f"{source} does not exist; give a checkpoint, a diffusers folder or a model folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as begun:
        try:
            said = _written(source, Path(begun) / STEM, options)
        except (ValueError, TypeError, FileNotFoundError) as error:
            raise SettingsError(f"{source} cannot be imported: {error}") from None
        if out.is_dir():
            out.rmdir()
        os.chmod(begun, 0o755)
        shutil.copytree(begun, out)
    return f"{said}{describe(out)}"


def _written(source: Path, stem: Path, options: ImportOptions) -> str:
    if source.is_file() and source.suffix == ".safetensors" and unpack_network(source, stem):
        load_network(stem)  # all of it fits
        return ""
    if stem_of(source).with_suffix(".json").is_file():
        load_network(stem_of(source))
        for suffix in (".safetensors", ".json"):
            shutil.copyfile(stem_of(source).with_suffix(suffix), stem.with_suffix(suffix))
        return ""
    imported = import_diffusers(source) if source.is_dir() else import_published(source, options.head)
    network = imported.network
    diffusion = network.config.diffusion
    chosen = {key: value for key, value in (("sampler", options.sampler), ("steps", options.steps)) if value}
    network.config = replace(network.config, diffusion=replace(diffusion, **chosen))  # type: ignore[arg-type]
    save_network(network, stem, options.half)
    if imported.fresh:
        return f"new and untrained, because the folder has none: {', '.join(imported.fresh)}; train before serving\n"
    return ""


def export_model(model: Path, out: Path) -> str:
    """Write a model as one file; returns what to say. Raises SettingsError."""
    if out.suffix != ".safetensors":
        raise SettingsError(f"--out is a file that ends in .safetensors, not {out}")
    if out.exists():
        raise SettingsError(f"{out} exists already")
    _tried(lambda: pack_network(stem_of(model), out))
    return f"{out}: {out.stat().st_size / 1e6:.1f} MB, read by `tilecascade model import`"


def describe(model: Path) -> str:
    """What is in a model, for people. Raises SettingsError."""
    stem = stem_of(model)
    config = _tried(lambda: load_description(stem))
    network: SGDM = _tried(lambda: load_network(stem))
    counts = network.parameter_counts()
    size = stem.with_suffix(".safetensors").stat().st_size
    values = stored_values(stem)
    diffusion, windows = config.diffusion, config.windows
    lines = [
        f"model      {config.name}, id {weights_hash(stem)}",
        f"files      {stem}.safetensors ({size / 1e6:.1f} MB), {stem}.json",
        f"parameters {sum(counts.values()) / 1e6:.1f} M: "
        + ", ".join(f"{name} {count / 1e6:.1f}" for name, count in counts.items()),
        f"memory     {values * 4 / 1e9:.2f} GB of weights as float32, {values * 2 / 1e9:.2f} GB as bfloat16",
        f"sampler    {diffusion.sampler}, {diffusion.steps} steps, {diffusion.prediction}",
        f"text       {config.text.profile} scale text, {config.text.layers} layers of {config.text.width}",
        f"windows    {f'of {SIDE} px, blended' if windows.blend else f'a block with {windows.encode} px around it'}",
        f"finish     {config.finish}",
        f"confidence {'calibrated' if config.calibration else 'not calibrated'}",
    ]
    return "\n".join(lines)


def _tried(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except (FileNotFoundError, ValueError, TypeError, RuntimeError, json.JSONDecodeError) as error:
        first = (str(error).strip().splitlines() or ["it cannot be read"])[0]
        raise SettingsError(first) from None
