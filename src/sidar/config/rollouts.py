"""Options of reinforcement: how SIDs are drawn for a request, and what they are rewarded by."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sidar.config.section import Extensible, Part, plugin_options
from sidar.extensions import REWARDS

Pool = Literal["max", "mean"]
_POOL = "Reward of an SID from those of its available items."


class RolloutConfig(Part):
    """The group of SIDs that the model writes for each request before it learns from them."""

    method: Literal["gumbel", "beam", "temperature", "free"] = Field(
        "gumbel",
        description=(
            "gumbel = drawn without replacement from the index; beam = the best ones, no draw; "
            "temperature = drawn with replacement from the index; free = drawn without the index."
        ),
    )
    group: int = Field(16, ge=2, description="SIDs of a request (G).")
    temperature: float = Field(
        1.0, gt=0, description="Of the policy that draws; the policy that learns has 1."
    )
    inner_steps: int = Field(
        1, ge=1, description="Optimizer steps on one set of rollouts; 1 = always on policy."
    )


class GradedConfig(Part):
    """The graded reward of EG-GRPO: the first that an item matches."""

    order: float = Field(1.0, description="Reward of an item that the request ordered.")
    cart: float = Field(1.0, description="Of one that it carted.")
    click: float = Field(1.0, description="Of one that it clicked.")
    exposed: float = Field(0.5, description="Of one that was shown and not chosen.")
    valid: float = Field(0.1, description="Of any other product.")
    invalid: float = Field(0.0, description="Of an SID that no available product has.")
    pool: Pool = Field("max", description=_POOL)


class UrlConfig(Part):
    """A reward that a service of yours computes (docs/align.md has the JSON)."""

    url: str = Field("", description="Address that takes requests and items and answers scores.")
    timeout_s: float = Field(10.0, gt=0, description="Longest wait for an answer.")
    retries: int = Field(2, ge=0, description="Further tries after an answer that fails.")
    invalid: float = Field(0.0, description="Reward of an SID that no available product has.")
    pool: Pool = Field("max", description=_POOL)


class RewardsConfig(Extensible):
    """Options of each reward; a plug-in's has a section of its own."""

    registry = REWARDS

    graded: GradedConfig = GradedConfig()
    url: UrlConfig = UrlConfig()

    def parts_in_use(self) -> list[str]:
        return []  # AlignConfig chooses the reward, and then calls `state`

    def state(self, name: str) -> None:
        """Give the plug-in's reward ``name`` its defaults where nothing is said of it."""
        if self.registry.is_external(name) and self.registry.options(name) is not None:
            assert self.__pydantic_extra__ is not None  # by extra="allow"
            self.__pydantic_extra__.setdefault(name, plugin_options(self.registry, name, {}))
