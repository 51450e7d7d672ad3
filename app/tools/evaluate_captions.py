"""`tilecascade evaluate captions`: whether tiles show what their captions say."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tilecascade.app.errors import SettingsError
from tilecascade.app.scenes.areas import LAYOUTS
from tilecascade.model.data.pairs import Pixels, read_image
from tilecascade.model.evaluation.captions import (
    agreement,
    clip_score,
    inception_score,
    load_tower,
    perceptual_distance,
    retrieval,
)
from tilecascade.model.layout.layout import layout_of
from tilecascade.model.text.captions import CaptionError, from_dict

TOWER = LAYOUTS.with_name("tower")
"""The tower that knows which caption belongs to which layout of a map."""


@dataclass(frozen=True)
class CaptionScores:
    """What is scored. captions: JSON as `tilecascade dataset captions` writes it. folder: of the images that it names.
    truth: a folder with the ground truth of the imagery under the same names. clip: an open_clip model and its file;
    classifier, perceptual: TorchScript (see `model.evaluation.captions`)."""

    captions: Path
    folder: Path
    truth: Path | None = None
    clip: tuple[str, Path] | None = None
    classifier: Path | None = None
    perceptual: Path | None = None


def score_captions(wanted: CaptionScores) -> dict[str, float]:
    """The scores by name: agreement and retrieval of maps always, of imagery what there are weights for.

    Raises SettingsError.
    """
    if (wanted.perceptual is None) != (wanted.truth is None):
        raise SettingsError("a perceptual distance is one to ground truth: give --perceptual and --truth")
    try:
        items: list[dict[str, Any]] = json.loads(wanted.captions.read_text())
        captions = [from_dict(item) for item in items]
        layouts = [layout_of(_image(wanted.folder / item["map"])) for item in items]
    except OSError as error:
        raise SettingsError(f"{error.filename or wanted.captions} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingsError(f"{wanted.captions} is no file of captions with their maps: {error}") from None
    try:
        scores = agreement(captions, layouts)
        scores["retrieval"] = round(retrieval(load_tower(TOWER), layouts, captions), 3)
        if wanted.clip is None and wanted.classifier is None and wanted.perceptual is None:
            return scores
        images = [_image(wanted.folder / item["image"]) for item in items]
        if wanted.clip is not None:
            texts = [str(item.get("prompt") or caption.text()) for item, caption in zip(items, captions, strict=True)]
            scores["clip"] = round(clip_score(images, texts, *wanted.clip), 2)
        if wanted.classifier is not None:
            scores["inception"] = round(inception_score(images, wanted.classifier), 3)
        if wanted.perceptual is not None and wanted.truth is not None:
            true = [_image(wanted.truth / item["image"]) for item in items]
            scores["perceptual"] = round(perceptual_distance(images, true, wanted.perceptual), 4)
    except (CaptionError, ValueError, RuntimeError) as error:
        raise SettingsError(str(error)) from None
    except OSError as error:
        raise SettingsError(f"{error.filename} cannot be read: {error.strerror}") from None
    return scores


def _image(path: Path) -> Pixels:
    return np.asarray(read_image(path))
