"""A registration so small that a cell takes seconds; nothing is learnt."""

from pathlib import Path
from typing import Any

import yaml

from experiments.raddpo import registration

CHANGES = {"users": 150, "requests": 700, "queries": {"count": 200}}


def toy_registration(folder: Path) -> Path:
    """Write a toy ``registration.yaml`` into ``folder``."""
    from sidar import simulate

    said: dict[str, Any] = yaml.safe_load((registration.HERE / "registration.yaml").read_text())
    hash = simulate.load_config("demo", **CHANGES).hash
    said["simulator"] |= {"preset": "demo", "changes": CHANGES, "hash": hash}
    tiny = {
        "layers": 2,
        "hidden": 64,
        "heads": 2,
        "kv_heads": 2,
        "intermediate": 128,
        "text_embeddings": "random",
    }
    steps = {
        "batch_size": 8,
        "validate_every": 2,
        "checkpoint_every": 2,
        "log_every": 1,
        "valid_requests": 8,
    }
    said["bed"] |= {
        "codebooks": [32, 16, 8],
        "requests": {"click": 12, "order": 4, "random": 4},
        "grounded": 10,
        "tune_requests": 8,
        "invalid": 3,
        "beam": 16,
        "settings": {
            "embed": {"model": "hashing:64"},
            "lm": {**tiny, "max_prompt_tokens": 40},
            "sft": {**steps, "steps": 4},
            "align": {**steps, "steps": 4, "rdrw_window": 16, "item_share": 0.1},
            "preference": {"max_negatives": 3},
        },
    }
    path = folder / "registration.yaml"
    path.write_text(yaml.safe_dump(said))
    return path
