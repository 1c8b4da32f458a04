"""What shoppers did with what they were shown: examination by position, then click, cart, order by
grade and taste.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sidar.simulate.config import BehaviourConfig


@dataclass(frozen=True)
class Chances:
    """Probabilities (S,) float64 of items for users: a click given examination, a cart given a
    click, an order given a cart. ``utility`` = P(order | examined), the simulator's true value of
    showing the item."""

    click: np.ndarray
    cart: np.ndarray
    order: np.ndarray

    @property
    def utility(self) -> np.ndarray:
        return self.click * self.cart * self.order


@dataclass(frozen=True)
class Acts:
    """What happened to S shown items, each (S,) bool; an order implies a cart implies a click
    implies examination.
    """

    examined: np.ndarray
    click: np.ndarray
    cart: np.ndarray
    order: np.ndarray


def chances(codes: np.ndarray, taste: np.ndarray, cfg: BehaviourConfig) -> Chances:
    """``codes`` (S,) grades by code, ``taste`` (S,) logits: P = σ(logit of the grade + weight ·
    taste).
    """
    return Chances(
        click=_sigmoid(np.asarray(cfg.click)[codes] + cfg.click_taste * taste),
        cart=_sigmoid(np.asarray(cfg.cart)[codes] + cfg.cart_taste * taste),
        order=_sigmoid(np.asarray(cfg.order)[codes] + cfg.order_taste * taste),
    )


def act(position: np.ndarray, of: Chances, cfg: BehaviourConfig, rng: np.random.Generator) -> Acts:
    """Draw the acts at 1-based ``position`` (S,).

    Examination depends on the position alone (position-based model).
    """
    examined = rng.random(len(position)) < position.astype(float) ** -cfg.examine
    click = examined & (rng.random(len(position)) < of.click)
    cart = click & (rng.random(len(position)) < of.cart)
    order = cart & (rng.random(len(position)) < of.order)
    return Acts(examined, click, cart, order)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))
