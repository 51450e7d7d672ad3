"""Noise as a function of (seed, zoom, phase, global latent coordinate).

A counter-based generator (Philox 4x32-10, Salmon et al. 2011) turns every coordinate into 128 random bits without
any state, so overlapping windows read identical noise, any window costs its own area, and requests may come in any
order. The bits become a normal variate by summing eight 16-bit integers (Irwin-Hall): exact integer arithmetic and
one float multiplication, hence the same bytes on every platform. Its tails end at 4.9 standard deviations.

On a processor numpy makes it (torch takes 1.5 times as long there); on another device torch makes it in place, so that
nothing is copied to the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_LOW = np.uint64(0xFFFFFFFF)
_16 = np.uint64(0xFFFF)
_32 = np.uint64(32)
_SCALE = np.float32(1.0 / (65536.0 * np.sqrt(8.0 / 12.0)))

CHUNK = 1 << 15
"""Values made at once."""

MEAN = 262140
"""Of the sum of eight 16-bit integers, each 32767.5 in the mean."""

Words = NDArray[np.uint64]
Corner = tuple[int, int]
"""Left and top of a window, in global latent coordinates."""


def philox(counter: tuple[Words, Words, Words, Words], key: tuple[int, int]) -> tuple[Words, Words, Words, Words]:
    """Philox 4x32-10 over arrays of counters (uint64 holding 32-bit words); returns four words of the same shape."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = _M0 * c0, _M1 * c2
        c0, c1, c2, c3 = (p1 >> _32) ^ c1 ^ np.uint64(k0), p1 & _LOW, (p0 >> _32) ^ c3 ^ np.uint64(k1), p0 & _LOW
        k0, k1 = (k0 + _W0) & 0xFFFFFFFF, (k1 + _W1) & 0xFFFFFFFF
    return c0, c1, c2, c3


def noise_window(
    seed: int, zoom: int, left: int, top: int, width: int, height: int, channels: int, phase: int = 0
) -> NDArray[np.float32]:
    """Standard normal noise of one window: channels x height x width float32.

    left, top: global latent coordinates at `zoom` (pixel coordinate / 8). Columns repeat at the antimeridian
    (modulo the world's width, 32 * 2^zoom); rows beyond the poles are counted on, so negative ones are fine.
    phase: which noise of that coordinate (0 = the initial one, i = the one added after step i).
    """
    columns = (np.arange(left, left + width, dtype=np.int64) % (32 << zoom)).astype(np.uint64)
    rows = (np.arange(top, top + height, dtype=np.int64) & 0xFFFFFFFF).astype(np.uint64)
    layers = np.arange(channels, dtype=np.uint64) + np.uint64((zoom << 8) | (phase << 16))
    key = (seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF)
    noise = np.empty((channels, height, width), dtype=np.float32)
    # a few channels at a time: whole arrays of a window do not fit a processor's cache
    step = max(1, CHUNK // (height * width))
    for first in range(0, channels, step):
        part = noise[first : first + step]
        counter = (
            np.broadcast_to(columns, part.shape),
            np.broadcast_to(rows[:, None], part.shape),
            np.broadcast_to(layers[first : first + step, None, None], part.shape),
            np.zeros(part.shape, dtype=np.uint64),
        )
        total = np.zeros(part.shape, dtype=np.uint64)
        for word in philox(counter, key):
            total += word & _16
            total += word >> np.uint64(16)
        part[:] = (total.astype(np.int64) - MEAN).astype(np.float32) * _SCALE
    return noise


def noise_of(
    seed: int,
    zoom: int,
    corners: Sequence[Corner],
    width: int,
    height: int,
    channels: int,
    device: torch.device,
    phase: int = 0,
) -> Tensor:
    """The noise of several windows of one size, N x channels x height x width float32, channels last, by the way that
    is the faster one on this device.

    As many parameters as `noise_window` has, because it is the same field.
    """
    if device.type == "cpu":
        fields = [noise_window(seed, zoom, *corner, width, height, channels, phase) for corner in corners]
        noise = torch.from_numpy(np.stack(fields))
    else:
        noise = noise_on_device(seed, zoom, corners, width, height, channels, device, phase)
    return noise.contiguous(memory_format=torch.channels_last)


def noise_on_device(
    seed: int,
    zoom: int,
    corners: Sequence[Corner],
    width: int,
    height: int,
    channels: int,
    device: torch.device,
    phase: int = 0,
) -> Tensor:
    """The noise of several windows of one size, N x channels x height x width float32, bit by bit `noise_window`'s.

    As many parameters as `noise_window` has, because it is the same field.
    """
    low = 0xFFFFFFFF
    arange = partial(torch.arange, dtype=torch.int64, device=device)
    places = torch.tensor(corners, dtype=torch.int64, device=device)
    shape = (len(corners), channels, height, width)
    columns = (places[:, :1] + arange(width)) % (32 << zoom)
    rows = (places[:, 1:] + arange(height)) & low
    layers = arange(channels) + ((zoom << 8) | (phase << 16))
    c0, c1 = columns[:, None, None, :].expand(shape), rows[:, None, :, None].expand(shape)
    c2, c3 = layers[None, :, None, None].expand(shape), torch.zeros(shape, dtype=torch.int64, device=device)
    k0, k1 = seed & low, (seed >> 32) & low
    for _ in range(10):
        # the product of two 32-bit words may pass the sign bit of int64: its bits are right all the same
        p0, p1 = c0 * int(_M0), c2 * int(_M1)
        c0 = (p1 >> 32).bitwise_and_(low).bitwise_xor_(c1).bitwise_xor_(k0)
        c2 = (p0 >> 32).bitwise_and_(low).bitwise_xor_(c3).bitwise_xor_(k1)
        c1, c3 = p1.bitwise_and_(low), p0.bitwise_and_(low)
        k0, k1 = (k0 + _W0) & low, (k1 + _W1) & low
    total = torch.full(shape, -MEAN, dtype=torch.int64, device=device)
    for word in (c0, c1, c2, c3):
        total += word >> 16
        total += word.bitwise_and_(0xFFFF)
    return total.float() * float(_SCALE)
