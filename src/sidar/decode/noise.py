"""Uniform noise from counters: what a request draws depends on its key alone, not on its batch.

A generator with a state would hand a request other numbers as soon as its neighbours change. Here
number n of the stream with key k is the finaliser of SplitMix64 at k + n · γ (Steele, Lea and Flood
2014, "Fast splittable pseudorandom number generators"), so any element is computed alone, for all
rows of a batch at once and alike on every device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def _signed(bits: int) -> int:
    """The int64 with the same 64 bits: torch has no unsigned arithmetic, but its int64 wraps."""
    return bits - (1 << 64) if bits >> 63 else bits


GAMMA = _signed(0x9E3779B97F4A7C15)  # 2⁶⁴ / golden ratio, odd
FIRST = _signed(0xBF58476D1CE4E5B9)
SECOND = _signed(0x94D049BB133111EB)


def stream_keys(
    seed: int, step: int, requests: Sequence[int | str], device: torch.device
) -> Tensor:
    """(Q,) int64 key of each request's stream: a hash of seed, step and the request's name."""
    keys = []
    for request in requests:
        name = repr((int(seed), int(step), str(request))).encode()
        digest = hashlib.blake2b(name, digest_size=8).digest()
        keys.append(int.from_bytes(digest, "little", signed=True))
    return torch.tensor(keys, dtype=torch.long, device=device)


def uniform(keys: Tensor, counters: Tensor) -> Tensor:
    """float64 in (0, 1), never 0 or 1: number ``counters`` ≥ 0 of the streams ``keys`` (int64)."""
    bits = (counters + 1).mul_(GAMMA).add_(keys)
    bits = bits.bitwise_xor_(_shifted(bits, 30)).mul_(FIRST)
    bits = bits.bitwise_xor_(_shifted(bits, 27)).mul_(SECOND)
    bits = bits.bitwise_xor_(_shifted(bits, 31))
    # a double holds 52 bits and the half
    return _shifted(bits, 12).double().add_(0.5).mul_(2.0**-52)


def gumbel(keys: Tensor, counters: Tensor) -> Tensor:
    """float64 standard Gumbel noise −log(−log u) of :func:`uniform`."""
    return uniform(keys, counters).log_().neg_().log_().neg_()


def _shifted(bits: Tensor, by: int) -> Tensor:
    """``bits`` as 64 unsigned ones, shifted right: torch's shift drags the sign along."""
    return (bits >> by).bitwise_and_((1 << (64 - by)) - 1)
