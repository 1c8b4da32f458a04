"""What ``device: auto`` and ``precision: auto`` mean: one place that asks the machine."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "fp32", "bf16"]
#: Of a search, whose weights are frozen.
DecodePrecision = Literal["auto", "fp32", "bf16", "int8"]


@cache
def _cpu_has_bf16() -> bool:
    """AVX512-BF16, AMX or Arm BF16: without such units bf16 on a CPU is emulated and slower than
    fp32.
    """
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return False
    flags = {
        f
        for line in info.read_text().splitlines()
        if line.startswith(("flags", "Features"))
        for f in line.split()
    }
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})


def resolve_device(device: str) -> str:
    """``auto`` → cuda where torch finds one, else cpu; anything else is the user's word, and must
    be there.

    Raises ``ValueError`` for a name that torch does not know, and for a GPU that it does not find.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        wanted = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device {device!r} is unknown; use auto, cpu, cuda or cuda:1") from None
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device {device!r}: torch finds {torch.cuda.device_count()} GPUs here; see `sidar "
            "doctor`"
        )
    return device


def use_bf16(device: str | torch.device, precision: Precision = "auto") -> bool:
    """True when matrix products on ``device`` should run in bf16; ``auto`` asks whether the device
    has units for it.
    """
    if precision != "auto":
        return precision == "bf16"
    import torch

    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return kind == "cpu" and _cpu_has_bf16()


def used_precision(
    device: str | torch.device, precision: Precision = "auto"
) -> Literal["fp32", "bf16"]:
    """Return what :func:`use_bf16` chooses, as a word for the record."""
    return "bf16" if use_bf16(device, precision) else "fp32"


def autocast(
    device: str | torch.device, precision: Precision = "auto"
) -> AbstractContextManager[None]:
    """bf16 autocast on ``device`` where :func:`use_bf16` says so, else a context
    that does nothing.
    """
    import torch

    return torch.autocast(
        torch.device(device).type, torch.bfloat16, enabled=use_bf16(device, precision)
    )
