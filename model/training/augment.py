"""What is done to a pair before the network sees it.

The eight symmetries act on imagery, map and reference alike (valid for maps without labels). Colour, haze and blur
act on the imagery; holes stand for the edge of a scene; the reference is degraded on its own, because at serving
time it is the network's own earlier output and not a true map.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from tilecascade.model.data.pairs import Pixels
from tilecascade.model.palette import LAND

Floats = NDArray[np.float32]


def symmetry(image: NDArray[Any], index: int) -> NDArray[Any]:
    """One of the eight symmetries of the square (index 0..7) of H x W x ..., H = W."""
    turned = np.rot90(image, index % 4)
    return np.ascontiguousarray(turned[:, ::-1] if index >= 4 else turned)


def imagery_colours(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Exposure, contrast, white balance, saturation, haze, coarse pixels, blur, noise and JPEG, each moderate and at
    random."""
    x = image.astype(np.float32) / 255
    x = x ** np.float32(np.exp(rng.normal(0, 0.25)))
    x = x * rng.normal(1, 0.08, 3).astype(np.float32) * np.float32(np.exp(rng.normal(0, 0.12)))
    grey = x.mean(axis=2, keepdims=True)
    x = grey + (x - grey) * np.float32(np.clip(rng.normal(1, 0.25), 0.2, 2.0))
    if rng.random() < 0.2:
        haze = np.float32(rng.uniform(0, 0.3))
        x = x * (1 - haze) + haze * np.float32(rng.uniform(0.6, 0.9))
    out = (np.clip(x, 0, 1) * 255).astype(np.uint8)
    picture = Image.fromarray(out)
    if rng.random() < 0.15:
        small = int(out.shape[0] * rng.uniform(0.35, 0.9))
        picture = picture.resize((small, small), Image.Resampling.BOX).resize(picture.size, Image.Resampling.BICUBIC)
    if rng.random() < 0.2:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.5)))
    if rng.random() < 0.3:
        # a sensor's noise: without it in training, a deviation of 4 levels cost water a tenth of its IoU
        noisy = np.asarray(picture) + rng.normal(0, rng.uniform(1, 8), out.shape).astype(np.float32)
        picture = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
    if rng.random() < 0.2:
        packed = io.BytesIO()
        picture.save(packed, "JPEG", quality=int(rng.integers(40, 95)))
        picture = Image.open(packed)
    return np.asarray(picture)


def smooth_field(size: int, rng: np.random.Generator) -> Floats:
    """size x size values of about a standard normal distribution that change over a sixth of the edge to half of it."""
    coarse = rng.normal(0, 1, (rng.integers(2, 7),) * 2).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))


def cast_shadows(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Darken a part with a soft, irregular edge and a bluish tint, as a mountain's or a cloud's shadow does."""
    field = smooth_field(image.shape[0], rng)
    edge = np.float32(rng.uniform(0.02, 0.3))
    depth = np.clip((field - np.float32(rng.normal(0.3, 0.5))) / edge, 0, 1)[..., None]
    dark = np.float32(rng.uniform(0.2, 0.6)) * np.array([0.9, 1.0, 1.15], dtype=np.float32)
    return np.clip(image * (1 - depth * (1 - dark)), 0, 255).astype(np.uint8)


def scene_edge(size: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """A validity mask as a scene's border cuts it: everything on one side of a random line is missing."""
    angle = rng.uniform(0, 2 * np.pi)
    offset = rng.uniform(-0.35, 0.35) * size
    y, x = np.mgrid[:size, :size] - size / 2
    return np.asarray(np.cos(angle) * x + np.sin(angle) * y < offset + size * 0.25)


def degrade_reference(reference: Pixels, other: Pixels, rng: np.random.Generator) -> Pixels:
    """Make a true reference look like a generated one: soft, shifted by a pixel or two, and wrong in places.

    other: any other reference, the source of the wrong patches.
    """
    out = np.array(reference)
    size = out.shape[0]
    for _ in range(rng.integers(0, 4)):
        h, w = rng.integers(size // 16, size // 2, 2)
        y, x = rng.integers(0, size - h), rng.integers(0, size - w)
        out[y : y + h, x : x + w] = LAND if rng.random() < 0.5 else other[y : y + h, x : x + w]
    if rng.random() < 0.5:
        out = np.roll(out, tuple(rng.integers(-3, 4, 2)), axis=(0, 1))
    if rng.random() < 0.7:
        picture = Image.fromarray(out)
        if rng.random() < 0.5:
            small = int(size * rng.uniform(0.3, 0.8))
            picture = picture.resize((small, small), Image.Resampling.BILINEAR)
            picture = picture.resize((size, size), Image.Resampling.BICUBIC)
        out = np.asarray(picture.filter(ImageFilter.GaussianBlur(rng.uniform(0, 2.5))))
    return out


def outdate_reference(reference: Pixels, other: Pixels, rng: np.random.Generator) -> Pixels:
    """Make a true reference one that the imagery contradicts: a survey of another day, or laid over another place.

    A third is `other` altogether. Else what was built or grown since is missing, or something else stood there, in
    irregular parts: all pixels are a map's own, so that only the imagery can tell.
    """
    if rng.random() < 1 / 3:
        return other
    then = np.broadcast_to(np.array(LAND, dtype=np.uint8), reference.shape) if rng.random() < 0.3 else other
    changed = smooth_field(reference.shape[0], rng) > rng.uniform(-0.3, 0.8)
    return np.where(changed[..., None], then, reference)


def to_unit(image: Pixels) -> Floats:
    """H x W x 3 uint8 -> 3 x H x W float32 in [-1, 1]."""
    return np.ascontiguousarray(image.transpose(2, 0, 1)).astype(np.float32) / 127.5 - 1
