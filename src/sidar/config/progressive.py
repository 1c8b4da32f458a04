"""Options of progressive training: its stages, and how each is trained."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from sidar.config.section import Part
from sidar.config.training import OptimConfig

#: The stages in their order; S4 is the alignment stage itself.
STAGES = ("s1", "s2", "s3", "s4")


class TitleStage(OptimConfig):
    """S1: the title of a product -> its SID."""

    steps: int = Field(200, ge=1, description="Training steps; the paper's: 2,000 of 128 rows.")


class SeveralStage(OptimConfig):
    """S2: a query -> several SIDs of what was chosen for it, with a separator between them."""

    steps: int = Field(250, ge=1, description="Training steps; the paper's: 2,500 of 256 rows.")
    lr_new: float = Field(
        2e-4,
        description="Learning rate of what no checkpoint has trained; .4 of S1's [source: N1].",
    )
    sids: int = Field(3, ge=1, description="Most SIDs of one answer; 1 = no separator.")


class PersonalStage(OptimConfig):
    """S3: profile, recently clicked SIDs and a query -> the SIDs that were chosen."""

    steps: int = Field(500, ge=1, description="Training steps; the paper's: 5,000 of 64 rows.")
    lr_new: float = Field(
        2e-4,
        description="Learning rate of what no checkpoint has trained; .4 of S1's [source: N1].",
    )


class ProgressiveConfig(Part):
    """Training in stages, each from the last (docs/progressive.md); S4 is the section align."""

    stages: list[Literal["s1", "s2", "s3", "s4"]] = Field(
        [],
        description="[s1, s2, s3, s4], or fewer of them; [] = alignment starts from the SFT model.",
    )
    s1: TitleStage = TitleStage()
    s2: SeveralStage = SeveralStage()
    s3: PersonalStage = PersonalStage()
    requests: int = Field(
        1000, ge=1, description="Test requests of the table after each stage, chosen by hash."
    )

    @field_validator("stages")
    @classmethod
    def _in_order(cls, value: list[str]) -> list[str]:
        if value != [name for name in STAGES if name in value]:
            raise ValueError(
                f"{', '.join(value)}: stages build on each other; write each once, in the order "
                f"{', '.join(STAGES)}"
            )
        return value
