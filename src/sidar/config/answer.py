"""Options of the answer: how the model searches, what is remembered, and the HTTP service."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

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
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto = bf16 where the device computes in it, else fp32."
    )
    rerank: Literal["none", "dense"] = Field(
        "none",
        description="dense = also rows <model>+rerank, and a bundle that orders what its beams "
        "reach so. The weight is "
        "chosen on validation requests with a query text; without any the bundle does not rerank, "
        "and says so.",
    )
    fuse: Literal["auto", "none", "memory"] = Field(
        "auto",
        description="What a bundle answers: none = its model alone, memory = counts of the query "
        "smoothed with all "
        "channels; auto = memory where the log has clicks.",
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


class ServeConfig(Part):
    """The HTTP service."""

    host: str = Field("127.0.0.1", description="Address that the server listens on.")
    port: int = Field(8000, description="Port that the server listens on.")
    root_path: str = Field(
        "",
        description=(
            "Prefix such as /shop under which a proxy shows the server and which it takes off."
        ),
    )

    @field_validator("root_path")
    @classmethod
    def _prefix(cls, value: str) -> str:
        """Write a prefix with one slash before it and none after it."""
        path = value.strip().strip("/")
        return f"/{path}" if path else ""
