"""The named aligned models of RAD-DPO's table 1: objectives, controls and ablations, from one
`align` section.
"""

from __future__ import annotations

from sidar.config import GRPO_DEFAULTS, AlignConfig
from sidar.extensions import OBJECTIVES
from sidar.types import Json

#: Row name -> what it changes in the config's `align` section. Controls: docs/evaluation.md.
VARIANTS: dict[str, Json] = {
    "raddpo": {"objective": "raddpo"},
    "raddpo-paper": {"objective": "raddpo-paper"},
    "sft-continued": {"objective": "sft"},
    "dpo": {"objective": "dpo"},
    "simpo": {"objective": "simpo"},
    "orpo": {"objective": "orpo"},
    "sdpo": {"objective": "sdpo"},
    "raddpo-no-tlgd": {"objective": "raddpo", "tlgd": False},
    "raddpo-no-rdrw": {"objective": "raddpo", "rdrw": False},
    "raddpo-no-mlsft": {"objective": "raddpo", "mlsft": "top"},
    "raddpo-pairwise": {"objective": "raddpo", "contrast": "pairwise"},
    "dpo+sft": {"objective": "dpo+sft"},
    "simpo+sft": {"objective": "simpo+sft"},
    "sdpo+sft": {"objective": "sdpo+sft"},
    "dmpo": {"objective": "dmpo"},
    "raddpo-contrast": {"objective": "raddpo", "tlgd": False, "rdrw": False},
    "raddpo-constant": {"objective": "raddpo", "rdrw_weights": "constant"},
    "raddpo-shuffled": {"objective": "raddpo", "rdrw_weights": "shuffled"},
    "raddpo-no-mlsft-none": {"objective": "raddpo", "mlsft": "none"},
    **{name: {"objective": name} for name in GRPO_DEFAULTS},
    **{f"{name}+sft": {"objective": f"{name}+sft"} for name in GRPO_DEFAULTS if name != "adagrpo"},
}

#: What `--all` runs: table 1 with its ablations and the control that every gain is judged against.
ALL = (
    *("raddpo", "raddpo-paper", "sft-continued", "dpo", "simpo", "orpo", "sdpo"),
    *("raddpo-no-tlgd", "raddpo-no-rdrw", "raddpo-no-mlsft", "raddpo-pairwise"),
)


def variants(base: AlignConfig, names: str) -> list[AlignConfig]:
    """The `align` sections of comma-separated row ``names`` (`all` = :data:`ALL`), same steps and
    rates for each.

    Raises ``ValueError`` that lists the known names.
    """
    chosen = list(ALL) if names == "all" else [name.strip() for name in names.split(",")]
    known = VARIANTS | {name: {"objective": name} for name in OBJECTIVES.external()}
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise ValueError(f"unknown variants {', '.join(unknown)}; there are {', '.join(known)}")
    changed = [{**base.model_dump(), **known[name], "label": name} for name in chosen]
    return [AlignConfig.model_validate(each) for each in changed]
