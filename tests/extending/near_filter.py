"""Nearness to a price as a condition of filters: within some percent of it, either way."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from sidar.filters import Columns, Condition, register_filter


class NearPrice(BaseModel):
    """A price, and how far from it is still near."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    price: float = Field(gt=0, description="The price that was asked for.")
    percent: float = Field(20, gt=0, description="Largest distance in percent of it.")


@register_filter("near_price")
class Near(Condition):
    """The price is near another one; an item without a price is not."""

    near_price: NearPrice

    def mask(self, columns: Columns) -> np.ndarray:
        prices = columns.column("price").numbers.values  # (N,), null is NaN
        asked = self.near_price
        return np.abs(prices - asked.price) <= asked.price * asked.percent / 100
