"""Options of the objectives that learn from groups of rollouts."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from sidar.config.section import Part


class GrpoConfig(Part):
    """The clipped surrogate of every objective with rollouts; null = the objective's own
    (docs/methods/grpo.md).
    """

    ratio: Literal["token", "sequence", "product"] | None = Field(
        None,
        description=(
            "pi / pi_old of each token, of the SID as a geometric mean (GSPO), or of the whole SID."
        ),
    )
    normalise: Literal["sequence", "constant", "token"] | None = Field(
        None,
        description=(
            "Tokens are averaged in each SID, divided by the levels (Dr.GRPO), or pooled (DAPO)."
        ),
    )
    std: Literal["sample", "population", "none"] | None = Field(
        None, description="What divides the advantages; none = Dr.GRPO."
    )
    eps: float = Field(1e-4, ge=0, description="Added to the standard deviation.")
    clip_low: float | None = Field(
        None, ge=0, le=1, description="The ratio is clipped at 1 - clip_low; 0 = unclipped."
    )
    clip_high: float | None = Field(
        None, ge=0, description="The ratio is clipped at 1 + clip_high; 0 = unclipped."
    )
    kl: float | None = Field(
        None, ge=0, description="Weight of the KL divergence (k3) to the model as it came in."
    )
    dynamic: bool | None = Field(
        None, description="Groups of one reward leave the mean (DAPO's dynamic sampling)."
    )
    spare_positives: bool | None = Field(
        None, description="Logged positives among the rollouts get no negative advantage."
    )
    inclusion: Literal["weighted", "biased"] = Field(
        "weighted",
        description="Groups drawn without replacement: by inclusion weights, or all alike.",
    )
    mix: float = Field(
        1.0, ge=0, description="Weight c of the surrogate under `+sft`: eq. 1 + c * surrogate."
    )


class AdaGrpoConfig(Part):
    """AdaGRPO's gate and weight (docs/methods/adagrpo.md); its surrogate is in `grpo`."""

    tau: float = Field(
        0.25,
        gt=0,
        le=1,
        description="Top share of the ranks: difficult = outside the policy's, sure = inside R's.",
    )
    rho: float = Field(
        0.5, gt=0, le=1, description="Bottom share of the ranks that perturbation items must be in."
    )
    eta: float = Field(1.0, ge=0, description="Weight of the gated surrogate beside the NLL.")
    gate: Literal["both", "difficulty", "discriminability", "random", "soft", "open", "closed"] = (
        Field(
            "both",
            description=(
                "both = AdaGRPO; controls: one condition, chance, soft weights, always, never."
            ),
        )
    )
    open_rate: float = Field(
        0.2, ge=0, le=1, description="gate: random opens with this probability; match gate/open."
    )
    perturbations: int = Field(
        4, ge=1, description="SIDs of other requests of the batch that the reward must rank low."
    )
    perturbation_source: Literal["rollouts", "truth"] = Field(
        "rollouts", description="Other requests' rollouts, or their best positives."
    )
    perturbation_rank: Literal["inside", "outside"] = Field(
        "inside",
        description="inside = all within the bottom rho; outside = the digest's literal wording.",
    )


class EgGrpoConfig(Part):
    """EG-GRPO's experts and its KL (docs/methods/eggrpo.md); its surrogate is in `grpo`."""

    experts: int = Field(
        2, ge=0, description="K logged SIDs put into each group: clicked first, then exposed."
    )
    expert_mode: Literal["append", "replace"] = Field(
        "append", description="The group has G + K members, or G with the last K replaced."
    )
    kl: Literal["paper-sec4.1", "paper-eq10"] = Field(
        "paper-sec4.1",
        description="Weight 1.0 as in section 4.1, or none as eq. 10 prints; grpo.kl overrules.",
    )


class RecastConfig(Part):
    """ReCast's reading of a reward (docs/methods/recast.md) [reconstruction]."""

    threshold: float = Field(
        0.0, description="A rollout is rewarded above this; a group without one is repaired."
    )


_GRPO: dict[str, Any] = {
    "ratio": "token",
    "normalise": "sequence",
    "std": "sample",
    "clip_low": 0.2,
    "clip_high": 0.2,
    "kl": 1e-3,
    "dynamic": False,
    "spare_positives": False,
}
#: Values of `align.grpo` options that are null, by objective; `+sft` changes none. As with
#: :data:`~sidar.config.training.OBJECTIVE_DEFAULTS` the objectives read their constants from here,
#: and an option that an objective does not read is not listed. KL 1e-3 and clip .2 [source:
#: MiniOneRec code], clip_high .28 [known: DAPO]. GSPO's clip of 3e-4 is meant for thousands of
#: tokens; a SID has three.
GRPO_DEFAULTS: dict[str, dict[str, Any]] = {
    "grpo": _GRPO,
    "drgrpo": {**_GRPO, "normalise": "constant", "std": "none", "kl": 0.0},
    "dapo": {**_GRPO, "normalise": "token", "clip_high": 0.28, "kl": 0.0, "dynamic": True},
    "gspo": {**_GRPO, "ratio": "sequence", "kl": 0.0},
    "minionerec": {**_GRPO, "clip_low": 0.0, "clip_high": 0.0},
    "adagrpo": {**_GRPO, "spare_positives": True},
    "eggrpo": {**_GRPO, "ratio": "product", "std": "population"},
    "recast": {
        **{key: _GRPO[key] for key in ("ratio", "normalise", "clip_low", "clip_high")},
        **{"kl": 0.0, "dynamic": False},
    },
}
#: Weight of the KL term by `align.eggrpo.kl`.
EGGRPO_KL = {"paper-sec4.1": 1.0, "paper-eq10": 0.0}


def resolved_grpo(name: str, grpo: GrpoConfig, eggrpo: EgGrpoConfig) -> GrpoConfig:
    """Return ``grpo`` with every null replaced by the value that the objective ``name`` uses.

    An objective without rollouts reads none of them; its nulls stay.
    """
    base = name.removesuffix("+sft")
    values = dict(GRPO_DEFAULTS.get(base, {}))
    if base == "eggrpo":
        values["kl"] = EGGRPO_KL[eggrpo.kl]
    missing = {key: value for key, value in values.items() if getattr(grpo, key) is None}
    return grpo.model_copy(update=missing)
