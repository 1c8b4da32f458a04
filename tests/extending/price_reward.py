"""What SIDs are worth to the shop: prices of chosen products, and a share of those of others."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from sidar.rewards import ItemReward, LoggedRequest, RewardInputs, register_reward


class PriceOptions(BaseModel):
    """A product's price as its worth, on a logarithmic scale."""

    model_config = ConfigDict(extra="forbid")
    others: float = Field(0.1, ge=0, description="Share of its worth where nobody chose it.")


@register_reward("price", options=PriceOptions)
class PriceReward(ItemReward):
    """log(1 + price) of what the request clicked, carted or ordered; of others a share of it."""

    options: PriceOptions

    def fit(self, inputs: RewardInputs) -> PriceReward:
        prices = inputs.dataset.catalogue.column("price")
        self.worth = np.log1p([price or 0.0 for price in prices])
        super().fit(inputs)
        return self

    def item_scores(self, request: LoggedRequest, rows: np.ndarray) -> np.ndarray:
        chosen = np.isin(rows, list(request.tiers))
        return np.where(chosen, 1.0, self.options.others) * self.worth[rows]
