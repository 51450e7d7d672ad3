"""The device that generates: which one, in which precision, and what else the bytes of a tile depend on."""

from __future__ import annotations

import os
import platform

import psutil
import torch


def choose_device(wanted: str) -> str:
    """The torch device for a setting: "auto" is CUDA where there is a GPU, otherwise the CPU.

    Raises ValueError for a device that is not usable here.
    """
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=wanted)
    except (RuntimeError, AssertionError):
        raise ValueError(f"device {wanted!r} is not usable here; use auto, cpu or cuda") from None
    return wanted


AMPERE = (8, 0)
"""The first graphics processors that compute bfloat16 natively; older ones emulate it, slower than float32."""


def choose_dtype(wanted: str, device: str) -> torch.dtype:
    """The type of matrix products for a setting: "auto" is bfloat16 where the device computes it natively."""
    if wanted == "auto":
        if device.startswith("cuda"):
            native = torch.cuda.get_device_capability(device) >= AMPERE
        else:
            # the processor may have the instructions while ATEN_CPU_CAPABILITY keeps torch from using them
            wide = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
            native = wide and torch.cpu._is_avx512_bf16_supported()
        return torch.bfloat16 if native else torch.float32
    return torch.bfloat16 if wanted == "bfloat16" else torch.float32


def free_memory(device: str) -> int:
    """Bytes that can be had on a device now."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


INSTRUCTIONS = ("vnni", "avx512_bf16", "amx_tile", "amx_fp16")
"""Instructions for which the library of convolutions has algorithms of their own, as torch names them."""


def processor_kind() -> str:
    """What decides which algorithms this processor runs: its instructions, as far as the environment allows them."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "")
    found = [name for name in INSTRUCTIONS if getattr(torch.cpu, f"_is_{name}_supported", bool)()]
    return " ".join([torch.backends.cpu.get_cpu_capability(), *found, *([f"at most {limit}"] if limit else [])])


def runtime_fingerprint(device: str, dtype: torch.dtype, batch: int) -> str:
    """What the bytes of a tile depend on besides the network.

    Two different machines may round the last bit differently, so their tiles get different layer versions.
    """
    kind = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine()
    return f"{kind} {processor_kind()} {dtype} torch {torch.__version__} batch {batch}"
