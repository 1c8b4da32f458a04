"""Options of the answer: how the model searches, and what is remembered."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sidar.config.section import Part


class DecodeConfig(Part):
    """Beam width, the shares of items inside an SID, and precision: the same in tables, tuning and
    the bundle.
    """

    beam: int = Field(
        128, ge=1, description="Beams of every search, raised to the items asked for."
    )
    item_share: Literal["counts", "uniform", "none"] = Field(
        "counts",
        description="Items score log pi(SID) + log of their share inside the SID: by training "
        "clicks, or equal shares; "
        "none = SIDs are listed whole, one after another.",
    )
    share_pseudo: float = Field(
        1.0, gt=0, description="Pseudo-count of each item in its share: new items are found."
    )
    share_temperature: float = Field(
        1.0, gt=0, description="Of the shares; 1 = as counted, larger = flatter."
    )
    exact: bool = Field(
        False,
        description=(
            "Search best first for the true top `beam` SIDs, in tables and in the bundle; slower."
        ),
    )
    precision: Literal["auto", "fp32", "bf16", "int8"] = Field(
        "auto",
        description="auto = bf16 where the device computes in it, else fp32; int8 = weights and "
        "states of eight bits in the products of the blocks, on a CPU.",
    )
    rerank: Literal["none", "dense"] = Field(
        "none",
        description="dense = also rows <model>+rerank, and a bundle that orders what its beams "
        "reach so. The weight is "
        "chosen on validation requests with a query text; without any the bundle does not rerank, "
        "and says so.",
    )
    fuse: Literal["auto", "none", "memory", "ranker"] = Field(
        "auto",
        description="What a bundle answers: none = its model alone, memory = counts of the query "
        "smoothed with all channels, ranker = the order of the learned ranker (wants "
        "ranker.enabled); auto = memory where the log has clicks, or the ranker where one is "
        "fitted and is better on the validation day.",
    )


class MemoryConfig(Part):
    """The counts of what was chosen for each query, and how they become the answer
    (docs/answer.md).
    """

    key_file: str = Field(
        "",
        description="File with the secret under which queries are kept; empty = memory.key of the "
        "run, made when it is "
        "missing. SIDAR_MEMORY_KEY goes before it. Keep it out of bundles.",
    )
    debias: Literal["none", "ips"] = Field(
        "none",
        description=(
            "ips = a choice weighs 1 / p(position), measured in the log's bucket "
            "`random`, at most 10."
        ),
    )
    requests: int = Field(
        1000, ge=1, description="Validation requests that the answer is fitted to, chosen by hash."
    )


class DcnConfig(Part):
    """The click model in torch that the ranker's trees are compared with (DCN v2)."""

    cross: int = Field(2, ge=1, description="Cross layers.")
    hidden: int = Field(64, ge=1, description="Width of the two layers of the deep part.")
    steps: int = Field(400, ge=1, description="Training steps.")
    batch_size: int = Field(32, ge=1, description="Requests of a step, all candidates of each.")
    lr: float = Field(2e-3, gt=0, description="Learning rate.")
    weight_decay: float = Field(0.01, ge=0, description="Of AdamW.")
    warmup: float = Field(
        0.05, ge=0, le=1, description="Share of the steps with rising learning rate."
    )
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="How the learning rate goes after the warm-up."
    )
    clip: float = Field(1.0, ge=0, description="Largest gradient norm; 0 = unclipped.")
    validate_every: int = Field(50, ge=1, description="Steps between two validations.")


class RankerConfig(Part):
    """The learned ranker over the candidates of all channels (docs/ranker.md)."""

    enabled: bool = Field(
        False,
        description="Fit it: a row of every table, a reward, and the answer where it is better on "
        "the validation day.",
    )
    learner: Literal["auto", "lambdamart", "dcn"] = Field(
        "auto",
        description="Trees by LightGBM, or a click model in torch; auto = the better one on the "
        "validation day.",
    )
    residual: bool = Field(
        False,
        description="Learn what the smoothed answer leaves, and add as much of it to its log P as "
        "pays on the validation day, for queries that were asked before and for new ones apart; "
        "false = the learner orders by itself.",
    )
    depth: int = Field(
        100, ge=1, le=500, description="Items that each channel hands to the ranker."
    )
    days: int = Field(
        1, ge=1, description="Last training days that it learns from, each with what came before."
    )
    requests: int = Field(
        2000, ge=1, description="Requests with a choice that it learns from, chosen by hash."
    )
    random_items: int = Field(
        10, ge=0, description="Random items among the candidates of a request in training."
    )
    debias: Literal["auto", "none", "ips"] = Field(
        "auto",
        description="ips = a request weighs 1 / p(position) of what it chose, measured in the "
        "log's bucket `random`; auto = ips where the log has that bucket.",
    )
    sft_steps: int = Field(
        0,
        ge=0,
        description="Steps of a second SFT on the days before those that the ranker learns from, "
        "for the features of beams; 0 = without these features.",
    )
    rounds: int = Field(400, ge=1, description="Most trees of LightGBM.")
    rate: float = Field(0.05, gt=0, description="Learning rate of the trees.")
    leaves: int = Field(31, ge=2, description="Leaves of a tree.")
    min_leaf: int = Field(50, ge=1, description="Fewest candidates in a leaf.")
    dcn: DcnConfig = DcnConfig()
