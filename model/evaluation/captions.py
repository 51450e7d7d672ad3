"""Whether tiles show what their captions say: by geometry, by retrieval with a tower of our own, and by towers that a
user gives."""

from __future__ import annotations

import itertools
import json
import pickle
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from tilecascade.model.cascade import Pixels
from tilecascade.model.layout.layout import KINDS, Layout, caption_of
from tilecascade.model.text.captions import Caption
from tilecascade.model.text.segments import LENGTHS, PADDING, Vocabulary

AMONG = 16
"""Captions that a tile is asked about, of which one is its own."""

WARMTH = 12.0
"""What cosines are multiplied by before they become chances."""


@dataclass(frozen=True)
class TowerConfig:
    """words: the vocabulary. width: of the common space. channels: of the first of four levels of the image's side."""

    words: tuple[str, ...]
    width: int = 96
    channels: int = 32


class CaptionTower(nn.Module):
    """Layouts and captions in one space, where those that belong together are near (as CLIP has photos and texts)."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.config, self.vocabulary = config, Vocabulary(config.words)
        width, first = config.width, config.channels
        self.embedding = nn.Embedding(len(self.vocabulary), width)
        self.place = nn.Parameter(0.02 * torch.randn(sum(LENGTHS), width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.text = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        sizes = [len(KINDS), first, 2 * first, 3 * first, 4 * first]
        levels: list[nn.Module] = []
        for before, after in itertools.pairwise(sizes):
            levels += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.SiLU(), nn.MaxPool2d(2)]
        # where things are counts: the last level is not averaged
        self.image = nn.Sequential(*levels, nn.Flatten(), nn.Linear(sizes[-1] * 9, width))

    def of_layouts(self, layouts: Tensor) -> Tensor:
        """N x EDGE x EDGE numbers of KINDS -> N x width, of length 1."""
        return F.normalize(self.image(F.one_hot(layouts.long(), len(KINDS)).permute(0, 3, 1, 2).float()), dim=1)

    def of_tokens(self, tokens: Tensor) -> Tensor:
        """N x 75 numbers (`Vocabulary.tokens`) -> N x width, of length 1."""
        counts = tokens != PADDING
        seen = self.text(self.embedding(tokens) + self.place, src_key_padding_mask=~counts)
        share = counts[..., None].float()
        return F.normalize((seen * share).sum(1) / share.sum(1).clamp(min=1), dim=1)

    def tokens(self, captions: Sequence[Caption]) -> Tensor:
        """N captions -> N x 75. Raises CaptionError for words that it has not learned."""
        return torch.stack([self.vocabulary.tokens(caption) for caption in captions])


def contrast(tower: CaptionTower, layouts: Tensor, tokens: Tensor) -> Tensor:
    """The loss that a tower is trained with: each layout among all captions of a batch, and the other way round."""
    scores = WARMTH * tower.of_layouts(layouts) @ tower.of_tokens(tokens).T
    same = (tokens[:, None] == tokens[None]).all(2).float()  # of several tiles with one caption all are right
    wanted = same / same.sum(1, keepdim=True)
    return (F.cross_entropy(scores, wanted) + F.cross_entropy(scores.T, wanted)) / 2


@torch.inference_mode()
def retrieval(tower: CaptionTower, layouts: Sequence[Layout], captions: Sequence[Caption], seed: int = 0) -> float:
    """How often a layout's own caption is nearest to it among AMONG of different text (chance: 1 / AMONG).

    Raises ValueError for fewer different captions than that.
    """
    texts = [caption.text() for caption in captions]
    different = list(dict.fromkeys(texts))
    if len(different) < AMONG:
        raise ValueError(f"retrieval takes {AMONG} different captions; there are {len(different)}")
    tower.eval()
    first = {text: captions[texts.index(text)] for text in different}
    words = tower.of_tokens(tower.tokens([first[text] for text in different]))
    seen = tower.of_layouts(torch.from_numpy(np.stack(layouts)))
    rng, right = np.random.default_rng(seed), 0
    for place, text in enumerate(texts):
        own = different.index(text)
        others = rng.choice([i for i in range(len(different)) if i != own], AMONG - 1, replace=False)
        scores = words[[own, *others.tolist()]] @ seen[place]
        right += int(scores.argmax() == 0)
    return right / len(texts)


def agreement(captions: Sequence[Caption], layouts: Sequence[Layout]) -> dict[str, float]:
    """How often a layout has the scene, a relation and an element that its caption says, as geometry tells."""
    pairs = [(caption, caption_of(layout)) for caption, layout in zip(captions, layouts, strict=True)]
    relations = [text in found.relations for caption, found in pairs for text in caption.relations]
    elements = [text in found.elements for caption, found in pairs for text in caption.elements]
    return {
        "scene": round(float(np.mean([caption.scene == found.scene for caption, found in pairs])), 3),
        "relation": round(float(np.mean(relations)), 3) if relations else 0.0,
        "element": round(float(np.mean(elements)), 3),
    }


def save_tower(tower: CaptionTower, stem: Path) -> None:
    """Write STEM.json and STEM.safetensors, in half precision."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    state = {key: value.half() if value.is_floating_point() else value for key, value in tower.state_dict().items()}
    save_file({key: value.contiguous() for key, value in state.items()}, stem.with_suffix(".safetensors"))
    stem.with_suffix(".json").write_text(json.dumps(asdict(tower.config)) + "\n")


def load_tower(stem: Path) -> CaptionTower:
    """What `save_tower` wrote. Raises OSError."""
    described = json.loads(stem.with_suffix(".json").read_text())
    tower = CaptionTower(TowerConfig(tuple(described["words"]), described["width"], described["channels"]))
    state = load_file(stem.with_suffix(".safetensors"))
    tower.load_state_dict({key: v.float() if v.is_floating_point() else v for key, v in state.items()})
    return tower.eval()


def clip_score(images: Sequence[Pixels], texts: Sequence[str], name: str, weights: Path) -> float:
    """Mean of 100 max(cosine, 0) of images and texts (Hessel et al. 2021) by a user's open_clip model.

    Raises ValueError for a model that cannot be loaded.
    """
    import open_clip  # takes seconds
    from PIL import Image

    try:
        model, _, prepare = open_clip.create_model_and_transforms(name, pretrained=str(weights))
    except (RuntimeError, KeyError, OSError, pickle.UnpicklingError) as error:
        raise ValueError(f"{weights} is no open_clip model {name}: {error}") from None
    model.eval()
    words = open_clip.get_tokenizer(name)(list(texts))
    with torch.inference_mode():
        seen = model.encode_image(torch.stack([prepare(Image.fromarray(image)) for image in images]))
        said = model.encode_text(words)
        cosines = F.cosine_similarity(seen.float(), said.float())
    return float(100 * cosines.clamp(min=0).mean())


def inception_score(images: Sequence[Pixels], classifier: Path) -> float:
    """exp of the mean divergence of each image's classes from those of all (Salimans et al. 2016).

    classifier: TorchScript that gives N x K logits for N x 3 x H x W in [-1, 1]; as published, Inception v3.
    Raises ValueError for a file that is none.
    """
    with torch.inference_mode():
        chances = _scripted(classifier)(_unit(images)).float().softmax(1)
    mean = chances.mean(0, keepdim=True)
    return float((chances * (chances.clamp(min=1e-9).log() - mean.clamp(min=1e-9).log())).sum(1).mean().exp())


def perceptual_distance(images: Sequence[Pixels], truth: Sequence[Pixels], distance: Path) -> float:
    """Mean distance of images and ground truth by TorchScript that a user gives, such as LPIPS: two N x 3 x H x W in
    [-1, 1] -> N values. Raises ValueError for a file that is none."""
    with torch.inference_mode():
        return float(_scripted(distance)(_unit(images), _unit(truth)).float().mean())


def _unit(images: Sequence[Pixels]) -> Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _scripted(file: Path) -> torch.jit.ScriptModule:
    try:
        return torch.jit.load(str(file), map_location="cpu").eval()
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{file} is no TorchScript file: {str(error).splitlines()[0]}") from None
