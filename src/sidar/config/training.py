"""Options of the language model and of its two trainings."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from sidar.config.reinforce import (
    AdaGrpoConfig,
    EgGrpoConfig,
    GrpoConfig,
    RecastConfig,
    resolved_grpo,
)
from sidar.config.rollouts import RewardsConfig, RolloutConfig
from sidar.config.section import Extensible, Part, known
from sidar.extensions import OBJECTIVES, REWARDS


class LoraConfig(Part):
    """Low-rank adapters; new SID rows are always trained beside them."""

    r: int = Field(16, description="Rank of the adapters.")
    alpha: int = Field(32, description="Scale of the adapters: alpha / r.")
    targets: list[str] | None = Field(
        None, description="null = all linear layers of the backbone's blocks."
    )


class LmConfig(Part):
    """The language model that writes SIDs."""

    backbone: str = Field(
        "embedded", description="`embedded`, or a local folder or hub name of a causal LM."
    )
    layers: int = Field(6, description="Embedded default only.")
    hidden: int = Field(384, description="Embedded default only: width.")
    heads: int = Field(6, description="Embedded default only: attention heads.")
    kv_heads: int = Field(6, description="Embedded default only: heads of keys and values.")
    intermediate: int = Field(
        1024, description="Embedded default only: width inside the feed-forward layers."
    )
    text_embeddings: Literal["minilm", "random"] = Field(
        "minilm", description="Embedded default only: where word embeddings start."
    )
    head: Literal["level", "full"] = Field(
        "level",
        description="level = softmax over the codes of a level; full = over the whole vocabulary.",
    )
    init: Literal["centroid", "mean"] = Field(
        "centroid",
        description="Where SID embeddings start: at their centroids, or near the mean word.",
    )
    geometry: bool = Field(
        False,
        description=(
            "Level heads also read the query's sentence vector and start as quantised "
            "dense (grown.md)."
        ),
    )
    geometry_exact: int = Field(
        250_000,
        ge=0,
        description=(
            "SIDs up to which the geometry's first code is exact; above it has two "
            "stages. 0 = always."
        ),
    )
    geometry_top: int = Field(
        8, ge=0, description="Two stages: first codes of a prompt whose SIDs are all scored."
    )
    lora: LoraConfig | None = None
    max_prompt_tokens: int = Field(96, description="Longer prompts are cut.")
    history_items: int = Field(
        5, description="Most recent items of the history that enter a prompt."
    )
    attention: Literal["auto", "sdpa", "eager"] = Field(
        "auto",
        description=(
            "auto = plain products for short rows on a CPU, torch's fused kernel otherwise."
        ),
    )
    template: str = Field("default", description="Name of a prompt template in lm/prompts.py.")


class OptimConfig(Part):
    """What both training stages share."""

    steps: int = Field(400, ge=1, description="Training steps.")
    batch_size: int = Field(64, ge=1, description="Rows of a step.")
    accumulate: int = Field(
        1, ge=1, description="Passes that a step is made in; more passes need less memory."
    )
    lr_new: float = Field(5e-4, description="Learning rate of parts that start untrained.")
    lr_pretrained: float = Field(
        3e-5, description="Learning rate of weights that came from a checkpoint."
    )
    weight_decay: float = Field(0.01, description="Of AdamW.")
    warmup: float = Field(0.05, description="Share of the steps with rising learning rate.")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="How the learning rate goes after the warm-up."
    )
    clip: float = Field(1.0, ge=0, description="Largest gradient norm; 0 = unclipped.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto = bf16 where the device computes in it, else fp32."
    )
    validate_every: int = Field(100, description="Steps between two validations.")
    checkpoint_every: int = Field(200, description="Steps between two checkpoints.")
    keep_checkpoints: int = Field(2, description="Newest checkpoints that are kept.")
    log_every: int = Field(10, description="Steps between two records of the log.")
    valid_requests: int = Field(
        256, description="Validation requests, chosen by hash; fewer where the day has fewer."
    )
    valid_beam: int = Field(
        8, ge=1, description="Beam of the recall@8 that picks the best checkpoint."
    )


class SftConfig(OptimConfig):
    """Supervised training (RAD-DPO eq. 1)."""

    positives: Literal["mean", "flat"] = Field(
        "mean", description="eq. 1's mean over positives, or one example each."
    )
    mixture: dict[Literal["item", "pseudo", "query"], float] = Field(
        {"item": 0.25, "pseudo": 0.35, "query": 0.4},
        description="Shares of item text, pseudo-queries and logged queries.",
    )
    max_positives: int = Field(
        8, ge=1, description="Positives of one example: top tiers and best positions first."
    )


class PreferenceConfig(Part):
    """How a logged request becomes a preference list."""

    negatives: Literal["shown", "skip_above", "sampled", "beam"] = Field(
        "shown",
        description=(
            "skip_above = shown above the lowest choice, so taken for seen and passed over."
        ),
    )
    debias: Literal["none", "ips"] = Field(
        "none",
        description=(
            "ips = a positive weighs 1 / p(position), measured in the log's bucket `random`."
        ),
    )
    max_positives: int = Field(
        8,
        ge=1,
        description=(
            "Positives of one list that are trained on; those left out are still no negatives."
        ),
    )
    max_negatives: int = Field(3, ge=0, description="Negatives of one list that are trained on.")
    judge: str = Field(
        "log",
        description=(
            "beam: log = what nobody chose is a negative; a reward's name (options: align.rewards) "
            "= its worst answers are, and its best may become y_w*."
        ),
    )
    refresh_every: int = Field(
        0,
        ge=0,
        description=(
            "beam: steps after which the model as it is then answers for the negatives; 0 = the "
            "SFT model answers to the end."
        ),
    )

    @model_validator(mode="after")
    def _beam_options(self) -> Self:
        if self.refresh_every and self.negatives != "beam":
            raise ValueError(
                f"refresh_every: {self.refresh_every} renews negatives from the model's beams; set "
                "preference.negatives to 'beam', or refresh_every to 0"
            )
        if self.judge != "log" and self.negatives != "beam":
            raise ValueError(
                f"judge: {self.judge} orders the model's beams; set preference.negatives to "
                "'beam', or judge to 'log'"
            )
        return self

    @field_validator("judge")
    @classmethod
    def _known_judge(cls, value: str) -> str:
        return value if value == "log" else known(REWARDS, value)


#: `align.objective` of a run that serves its SFT model.
NO_OBJECTIVE = "none"
#: Values of `align` options that are null, by objective; `+sft` changes none. An option that an
#: objective does not read is not listed and stays null. The objectives (sidar.align) read their
#: constants from here, so that what is recorded with a model is what it was trained with; this file
#: must not import them. RAD-DPO's beta [reconstruction: the paper gives no figure]: 2 is SimPO's
#: scale of length-normalised rewards. The softmax reading pushes more than the printed one at the
#: same beta. At a quarter of it and 120 steps next-day clicks were higher (SID MRR +.0054); on true
#: utility no difference was told (docs/evidence.md, Sweeps).
OBJECTIVE_DEFAULTS: dict[str, dict[str, float]] = {
    "raddpo": {"beta": 0.5},
    "raddpo-paper": {"beta": 2.0},
    "dpo": {"beta": 0.1},
    "sdpo": {"beta": 1.0},
    "dmpo": {"beta": 0.1},
    "simpo": {"beta": 2.0, "gamma": 0.25},
    "orpo": {"lam": 0.1},
}


class AlignConfig(OptimConfig, Extensible):
    """The alignment stage: objective, its constants and its ablation switches
    (docs/methods/raddpo.md).
    """

    registry = OBJECTIVES

    objective: str = Field(
        "raddpo",
        description="raddpo, raddpo-paper, sft, dpo, simpo, orpo, sdpo, dmpo; with rollouts "
        "adagrpo, eggrpo, grpo, drgrpo, dapo, gspo, minionerec, recast; or a plug-in's. `+sft` "
        "adds eq. 1 to a baseline. none = no alignment, the SFT model is served, as without a log.",
    )
    label: str | None = Field(
        None, description="Names the folder align-<label>; null = the objective."
    )
    steps: int = Field(
        480, ge=1, description="Rows of alignment = steps x batch_size (docs/evidence.md, Sweeps)."
    )
    batch_size: int = Field(16, ge=1, description="Lists of a step.")
    lr_new: float = Field(
        3e-5, description="As a validation day of clicks chose it for 120 steps and beta 2."
    )
    lr_pretrained: float = Field(
        1.8e-6, description="Learning rate of weights that came from a checkpoint."
    )
    beta: float | None = Field(
        None,
        description=(
            "null = the objective's own: raddpo 0.5, raddpo-paper and simpo 2, dpo and "
            "dmpo 0.1, sdpo 1."
        ),
    )
    gamma: float | None = Field(None, description="SimPO's gamma/beta ratio.")
    lam: float | None = Field(None, description="ORPO's weight of the odds ratio.")
    beta_inside: bool = Field(
        False, description="softmax reading: beta inside the log-sum-exp, as S-DPO prints it."
    )
    mlsft: Literal["all", "top", "none"] = Field(
        "all",
        description="RAD-DPO's SFT term: all positives, the best one, or no term (ablations).",
    )
    contrast: Literal["global", "pairwise"] = Field(
        "global", description="global = one list; pairwise = each negative alone (ablation)."
    )
    tlgd: bool = Field(
        True,
        description="Stop the gradient of negatives on tokens shared with y_w*; false = ablation.",
    )
    rdrw: bool = Field(
        True, description="Weigh negatives by similarity to y_w*; false = ablation, all weights 1."
    )
    rdrw_state: Literal["eos_out", "last_code", "item_vector"] = Field(
        "eos_out",
        description="What is compared: the state that outputs EOS, the one before, or centroids.",
    )
    rdrw_window: int = Field(4096, description="Similarities behind the quartiles (N of eq. 6).")
    rdrw_lambda: float = Field(12.0, description="Steepness of the weight between the quartiles.")
    rdrw_warmup_weight: float = Field(
        1.0, description="Weight before the first rdrw_window similarities."
    )
    rdrw_update: Literal["window", "ema", "frozen"] = Field(
        "window",
        description="Quartiles of the last N, an exponential mean, or of the first N for ever.",
    )
    rdrw_alpha: float = Field(0.01, description="Step of the ema update.")
    rdrw_weights: Literal["similarity", "constant", "shuffled"] = Field(
        "similarity",
        description="Controls: rdrw_constant for all, or eq. 6's weights permuted in the batch.",
    )
    rdrw_constant: float = Field(
        0.75, gt=0, description="w of every negative under `rdrw_weights: constant`."
    )
    lcp: Literal["star", "any_pos"] = Field(
        "star", description="Prefixes are compared with y_w*, or with every positive."
    )
    positives: Literal["mean", "flat"] | None = Field(
        None, description="null = as in sft, so that rows compare."
    )
    item_share: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Share of item text -> SID kept in alignment, same for every method.",
    )
    reward: str = Field(
        "graded",
        description=(
            "Reinforcement: what SIDs are rewarded by: graded, rule, ranking, ranker, url, or a "
            "plug-in's."
        ),
    )
    rewards: RewardsConfig = RewardsConfig()
    rollouts: RolloutConfig = RolloutConfig()
    grpo: GrpoConfig = GrpoConfig()
    adagrpo: AdaGrpoConfig = AdaGrpoConfig()
    eggrpo: EgGrpoConfig = EgGrpoConfig()
    recast: RecastConfig = RecastConfig()

    def parts_in_use(self) -> list[str]:
        return [self.objective.removesuffix("+sft")] if self.aligns else []

    @property
    def aligns(self) -> bool:
        """Whether a model is aligned; without, the SFT model is served."""
        return self.objective != NO_OBJECTIVE

    @property
    def model_name(self) -> str:
        """Name of the served model's row."""
        return (self.label or self.objective) if self.aligns else "sft"

    @property
    def folder(self) -> str:
        """Folder of the served model inside a run."""
        return f"align-{self.model_name}" if self.aligns else "sft"

    def without_alignment(self) -> AlignConfig:
        """Return a copy under which the SFT model is served."""
        return self.model_copy(update={"objective": NO_OBJECTIVE, "label": None})

    def resolved(self, sft: SftConfig) -> AlignConfig:
        """Return a copy in which every null that the objective reads is replaced by the value it
        will use.
        """
        values: dict[str, Any] = dict(
            OBJECTIVE_DEFAULTS.get(self.objective.removesuffix("+sft"), {})
        )
        values["positives"] = sft.positives
        grpo = resolved_grpo(self.objective, self.grpo, self.eggrpo)
        missing = {name: value for name, value in values.items() if getattr(self, name) is None}
        return self.model_copy(update={**missing, "grpo": grpo})

    @field_validator("objective")
    @classmethod
    def _known(cls, value: str) -> str:
        return value if value == NO_OBJECTIVE else known(OBJECTIVES, value)

    @field_validator("reward")
    @classmethod
    def _known_reward(cls, value: str) -> str:
        return known(REWARDS, value)

    @model_validator(mode="after")
    def _state_options_of_reward(self) -> Self:
        """Give a plug-in's reward in use its defaults, so that they are recorded."""
        self.rewards.state(self.reward)
        return self
