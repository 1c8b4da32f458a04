"""The methods that can be compared: what each changes in the `sid` section, and the controls."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from sidar.config import Config, SidConfig

Options = dict[str, JsonValue]

#: The method that every other is compared with, at its codebook sizes and its bits.
REFERENCE = "rqkmeans"


@dataclass(frozen=True)
class Method:
    """A tokenizer with options: ``changes`` override the `sid` section of the config."""

    name: str
    about: str
    changes: Options
    must_lose_to: str = ""  # of a control: the method that it must lose to
    imported: bool = False  # an SID table from a file

    @property
    def folder(self) -> str:
        """Return the name of its folder."""
        return re.sub(r"[^\w.+-]", "_", self.name)


def _sarq(base: str, lengths: str = "rule") -> Options:
    """Return SARQ over ``base``; an autoencoder also learns to restore items from prefixes."""
    options: Options = {"method": "sarq", "sarq": {"base": base, "lengths": lengths}}
    return options if base == REFERENCE else options | {base: {"progressive": True}}


_METHODS = (
    Method("rqkmeans", "residual k-means, three codes for every item", {"method": "rqkmeans"}),
    Method(
        "rqkmeans-category",
        "residual k-means below a first code that is the category",
        {"method": "rqkmeans", "category_first": True},
    ),
    Method("rqvae", "residual-quantised autoencoder (TIGER)", {"method": "rqvae"}),
    Method("cqsid", "RQ-VAE, first code by category, query contrast (CQ-SID)", {"method": "cqsid"}),
    Method(
        "cqsid-no-category",
        "CQ-SID without the category-guided first code (the paper's ablation)",
        {"method": "cqsid", "cqsid": {"category": False}},
    ),
    Method(
        "cqsid-no-queries",
        "CQ-SID without the query contrast (the paper's ablation)",
        {"method": "cqsid", "cqsid": {"contrast": False}},
    ),
    Method("acrq", "RQ-VAE, the head's codebooks frozen, room for the tail", {"method": "acrq"}),
    Method("sarq", "residual k-means, popular items with longer IDs (SARQ)", _sarq(REFERENCE)),
    Method("sarq+rqvae", "RQ-VAE, popular items with longer IDs", _sarq("rqvae")),
    Method("sarq+cqsid", "CQ-SID, popular items with longer IDs", _sarq("cqsid")),
    Method("sarq+acrq", "SA²CRQ: ACRQ, popular items with longer IDs", _sarq("acrq")),
    Method("random", "control: codes that say nothing", {"method": "random"}, REFERENCE),
    Method(
        "sarq-shuffled",
        "control: SARQ's own lengths, dealt to the items at random",
        _sarq(REFERENCE, "shuffled"),
        must_lose_to="sarq",
    ),
)
METHODS = {method.name: method for method in _METHODS}
#: Methods of a comparison that names none: every tokenizer and both controls.
DEFAULT = (REFERENCE, "rqvae", "cqsid", "acrq", "sarq", "sarq+acrq", "random", "sarq-shuffled")


def chosen_methods(names: Sequence[str] = DEFAULT) -> list[Method]:
    """Return the methods of ``names``, the reference first; ``NAME=PATH`` is an SID table.

    Raises ``ValueError`` that lists the known names, or names the file that is missing.
    """
    chosen = {REFERENCE: METHODS[REFERENCE]}
    unknown = []
    for name in filter(None, (part.strip() for part in names)):
        label, equals, path = name.partition("=")
        if name in METHODS:
            chosen[name] = METHODS[name]
        elif equals and label and label not in METHODS:
            chosen[label] = _imported(label, Path(path))
        else:
            unknown.append(name)
    if unknown:
        raise ValueError(
            f"unknown methods {', '.join(unknown)}; there are {', '.join(METHODS)}, "
            "and NAME=PATH for IDs of others"
        )
    return list(chosen.values())


def _imported(name: str, path: Path) -> Method:
    if not path.is_file():
        raise ValueError(
            f"{name}: {path} is no file; name a table of SIDs (sids.parquet, JSON, CSV)"
        )
    changes: Options = {"method": "table", "table": {"path": str(path.resolve())}}
    return Method(name, f"IDs of others, {path.name}", changes, imported=True)


def sid_config(
    base: SidConfig, method: Method, sizes: Sequence[int] | None, bits: float | None
) -> SidConfig:
    """Return the `sid` section of ``method``: the user's own with its changes, at equal size.

    ``sizes`` are the reference's codebook sizes; None keeps the user's own or automatic ones.
    ``bits`` per item is what adaptive lengths may spend.
    """
    options = _merged(base.model_dump(), method.changes)
    if method.imported:
        options["codebook_sizes"] = None
    elif sizes is not None:
        options |= {"codebook_sizes": list(sizes), "levels": len(sizes)}
        if options["method"] == "sarq" and bits is not None:
            options = _merged(options, {"sarq": {"budget": bits}})
    if options["method"] != "rqkmeans":
        options["balance_last"] = False
    if method.name != "rqkmeans-category":
        options["category_first"] = False
    return SidConfig.model_validate(options)


def with_sid(cfg: Config, sid: SidConfig, seed: int) -> Config:
    """Return ``cfg`` with this tokenizer and this seed of tokenizer and training."""
    return cfg.model_copy(update={"sid": sid, "seed": seed})


def _merged(base: Options, changes: Mapping[str, JsonValue]) -> Options:
    merged = dict(base)
    for key, value in changes.items():
        section = merged.get(key)
        if isinstance(section, dict) and isinstance(value, dict):
            merged[key] = _merged(section, value)
        else:
            merged[key] = value
    return merged
