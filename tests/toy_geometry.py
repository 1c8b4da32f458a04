"""A tiny model that starts at the geometry, its codebooks, SID tables and prompts."""

import itertools

import numpy as np
import torch
from reference_decode import sid_table

from sidar.config import LmConfig
from sidar.lm import SidLM
from sidar.lm.prompts import Encoded

SIZES, DIM = (6, 5, 4), 8
TEXTS = [[5, 6, 7, 8, 9], [11, 3], [12, 13, 14]]


def books(seed=0):
    rng = np.random.default_rng(seed)
    return [
        rng.normal(size=(k, DIM)).astype(np.float32) / (1 + level) for level, k in enumerate(SIZES)
    ]


def unit(n=3, seed=1):
    q = np.random.default_rng(seed).normal(size=(n, DIM)).astype(np.float32)
    return q / np.linalg.norm(q, axis=1, keepdims=True)


def prompts(vectors=None):
    found = []
    for text, vector in zip(TEXTS, unit() if vectors is None else vectors, strict=True):
        found.append(Encoded(text))
        found[-1].vector = vector
    return found


def everything(variable=False):
    tuples = list(itertools.product(*map(range, SIZES)))
    if variable:
        tuples += list(itertools.product(range(6), range(5))) + list(itertools.product(range(6)))
    return sid_table(tuples, SIZES)


def some(variable=False, n=50, seed=4):
    """A table in which most codes lead nowhere; with ``variable`` some SIDs are the beginning of
    others.
    """
    rng = np.random.default_rng(seed)
    tuples = {tuple(int(rng.integers(k)) for k in SIZES) for _ in range(n)}
    if variable:
        tuples |= {t[: int(rng.integers(1, 3))] for t in sorted(tuples)[::3]}
    return sid_table(sorted(tuples), SIZES)


def build(table=None, **lm):
    small = {
        "layers": 2,
        "hidden": 32,
        "heads": 2,
        "kv_heads": 1,
        "intermediate": 48,
        "text_embeddings": "random",
    }
    table = some() if table is None else table
    return SidLM.build(LmConfig(geometry=True, **{**small, **lm}), table, books(), seed=3).eval()


def trained(variable=False, seed=5):
    """As if trained for long: every weight is random, and the decoder and the prior both matter."""
    model = build(some(variable))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.startswith(("heads", "eos_head")):
                parameter.copy_(3 * noise)
            elif name.startswith("geometry"):
                parameter.add_(0.2 * noise)
        model.geometry.log_gate.fill_(1.0)
    return model
