"""Who takes part in a bake-off: names, what each changes in the `sid` section, and which of them must lose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidar.config import Config, SidConfig

#: What every other method is compared with, at its sizes and its bits.
REFERENCE = "rqkmeans"


@dataclass(frozen=True)
class Entrant:
    """One method: ``changes`` go over the config's `sid` section; ``must_lose_to`` names the method that a control
    is the control of."""

    name: str
    changes: dict[str, Any]
    about: str
    must_lose_to: str = ""
    table: str = ""  # IDs of others: the file

    @property
    def folder(self) -> str:
        """Name of its folder."""
        return "".join(c if c.isalnum() or c in "+-_." else "_" for c in self.name)


def _sarq(base: str) -> dict[str, Any]:
    """SARQ over ``base``; an autoencoder learns to restore from prefixes, as short SIDs need it (PLUM's masking)."""
    own = {} if base == REFERENCE else {base: {"progressive": True}}
    return {"method": "sarq", "sarq": {"base": base, "lengths": "rule"}, **own}


_KNOWN = (
    Entrant("rqkmeans", {"method": "rqkmeans"}, "residual k-means, three codes for every item"),
    Entrant(
        "rqkmeans-category",
        {"method": "rqkmeans", "category_first": True},
        "residual k-means below a first code that is the category (CQ-SID's first idea alone)",
    ),
    Entrant("rqvae", {"method": "rqvae"}, "residual-quantised autoencoder (TIGER)"),
    Entrant("cqsid", {"method": "cqsid"}, "RQ-VAE with category-guided first code and query contrast (CQ-SID)"),
    Entrant(
        "cqsid-no-category",
        {"method": "cqsid", "cqsid": {"category": False}},
        "CQ-SID without the category-guided first code (the paper's ablation)",
    ),
    Entrant(
        "cqsid-no-queries",
        {"method": "cqsid", "cqsid": {"contrast": False}},
        "CQ-SID without the query contrast (the paper's ablation)",
    ),
    Entrant("acrq", {"method": "acrq"}, "RQ-VAE with the head's codebooks frozen and room for the tail (ACRQ)"),
    Entrant("sarq", _sarq("rqkmeans"), "residual k-means, popular items with longer IDs (SARQ)"),
    Entrant("sarq+rqvae", _sarq("rqvae"), "RQ-VAE, popular items with longer IDs"),
    Entrant("sarq+cqsid", _sarq("cqsid"), "CQ-SID, popular items with longer IDs"),
    Entrant("sarq+acrq", _sarq("acrq"), "SA²CRQ: ACRQ, popular items with longer IDs"),
    Entrant("random", {"method": "random"}, "control: codes that say nothing of the item", REFERENCE),
    Entrant(
        "sarq-shuffled",
        {"method": "sarq", "sarq": {"base": "rqkmeans", "lengths": "shuffled"}},
        "control: SARQ's own lengths, dealt to the items at random",
        "sarq",
    ),
)
KNOWN = {entrant.name: entrant for entrant in _KNOWN}
#: What `--methods` is by default: every tokenizer and both controls.
DEFAULT = ("rqkmeans", "rqvae", "cqsid", "acrq", "sarq", "sarq+acrq", "random", "sarq-shuffled")


def entrants(names: Sequence[str] = DEFAULT) -> list[Entrant]:
    """The entrants of ``names``, the reference first whether named or not; ``NAME=PATH`` are IDs of others.

    Raises ``ValueError`` that lists the known names, or names the file that is missing.
    """
    found: dict[str, Entrant] = {REFERENCE: KNOWN[REFERENCE]}
    unknown = []
    for name in (part.strip() for part in names):
        label, sep, path = name.partition("=")
        if sep and label and label not in KNOWN:
            if not Path(path).is_file():
                raise ValueError(f"{label}: {path} is no file; name a table of SIDs (sids.parquet, JSON, CSV)")
            changes = {"method": "table", "table": {"path": str(Path(path).resolve())}}
            found[label] = Entrant(label, changes, f"IDs of others, {Path(path).name}", table=path)
        elif name in KNOWN:
            found[name] = KNOWN[name]
        elif name:
            unknown.append(name)
    if unknown:
        raise ValueError(
            f"unknown methods {', '.join(unknown)}; there are {', '.join(KNOWN)}, and NAME=PATH for IDs of others"
        )
    return list(found.values())


def sid_config(base: SidConfig, entrant: Entrant, sizes: Sequence[int] | None, bits: float | None) -> SidConfig:
    """The `sid` section of ``entrant``: the user's own, its changes, and the size that all are held to.

    ``sizes`` None: the reference itself, with the user's sizes or automatic ones. ``bits`` per item is what adaptive
    lengths may spend.
    """
    merged = _merged(base.model_dump(), entrant.changes)
    if entrant.table:
        merged["codebook_sizes"] = None
    elif sizes is not None:
        merged |= {"codebook_sizes": list(sizes), "levels": len(sizes)}
        if merged["method"] == "sarq" and bits is not None:
            merged["sarq"]["budget"] = bits
    if merged["method"] != "rqkmeans":
        merged["balance_last"] = False
    if entrant.name != "rqkmeans-category":
        merged["category_first"] = False
    return SidConfig.model_validate(merged)


def with_sid(cfg: Config, sid: SidConfig, seed: int) -> Config:
    """``cfg`` with this tokenizer and this seed of tokenizer and training; the data stay those of ``cfg.seed``."""
    return cfg.model_copy(update={"sid": sid, "seed": seed})


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    out = dict(below)
    for key, value in above.items():
        out[key] = _merged(out[key], value) if isinstance(value, dict) and isinstance(out.get(key), dict) else value
    return out
