"""Learning rate as a pure function of the step, so that resuming needs nothing but the step."""

from __future__ import annotations

import math

from sidar.config import DcnConfig, DenseConfig, OptimConfig, RqVaeConfig


def lr_factor(step: int, cfg: OptimConfig | DenseConfig | RqVaeConfig | DcnConfig) -> float:
    """Factor on each group's learning rate at optimizer step ``step`` (0-based) of ``cfg.steps``.

    Rises linearly over the first ``warmup`` share of the steps (never from exactly 0), then follows
    ``schedule``: ``cosine`` and ``linear`` fall to 0 at the end, ``constant`` stays.
    """
    rising = round(cfg.warmup * cfg.steps)
    if step < rising:
        return (step + 1) / rising
    if cfg.schedule == "constant":
        return 1.0
    done = (step - rising) / max(cfg.steps - rising, 1)
    return 1.0 - done if cfg.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))


def step_seed(seed: int, step: int) -> int:
    """Seed of every random draw of one step: with it, no generator state has to survive a crash."""
    return (seed * 1_000_003 + step * 7_919 + 1) % (1 << 63)
