"""What a warm start must share with the bundle that it goes on from: codes of frozen codebooks mean
what they meant.
"""

from __future__ import annotations

import json
from pathlib import Path

from sidar.artifacts import read_manifest
from sidar.config import SidConfig
from sidar.types import Json

_KMEANS = ("iterations", "init", "restarts", "sample", "balance_last", "category_first")
#: Options of a section that say how a fit is watched, not what it makes.
_WATCHED = {"log_every", "checkpoint_every", "collapse_below"}


def check_encoder(before: Path, now: Path) -> None:
    """``ValueError`` where frozen codebooks would meet vectors of another encoder: near codes would
    mean nothing.
    """
    files = [folder / "embedder.json" for folder in (before, now)]
    if all(file.is_file() for file in files):
        old, new = (json.loads(file.read_text()) for file in files)
        if old["fingerprint"] != new["fingerprint"]:
            raise ValueError(
                f"the codebooks of {before.parent} were fitted to vectors of {old['model']!r} "
                f"({old['fingerprint']}), these are of {new['model']!r} ({new['fingerprint']}); go "
                "on with the old encoder (embed.model), or fit anew without --from and train "
                "again (`sidar sids plan` says what)"
            )


def check_settings(before: Path, config: SidConfig) -> None:
    """``ValueError`` where ``config`` asks for other codebooks than those of the SID folder
    ``before``.

    Options that its manifest does not know had their defaults; without a manifest nothing is
    compared. Sizes are compared where they are stated.
    """
    manifest = read_manifest(before)
    if manifest is None:
        return
    then = asked(SidConfig().model_dump(mode="json") | manifest.config.get("sid", {}))
    now = asked(config.model_dump(mode="json"))
    if now.get("codebook_sizes") in (None, manifest.shapes.get("codebook_sizes")):
        now.pop("codebook_sizes", None)
    # options of one method alone: no
    differs = [name for name in now if name in then and now[name] != then[name]]
    if differs:
        said = "; ".join(
            f"sid.{name}: {then[name]!r} there, {now[name]!r} here" for name in differs
        )
        raise ValueError(
            f"the codebooks of {before} were fitted with other settings ({said}), and a warm start "
            "keeps them as they are; set these options back, or fit anew without --from: a "
            "migration, see docs/lifecycle.md and `sidar sids plan`"
        )


def asked(sid: Json) -> Json:
    """``rqvae.steps`` → value: the options of a `sid` section that its method's codebooks depend
    on.
    """
    default = SidConfig().model_dump(mode="json")
    names = ["method", "view"]
    if sid["method"] != "table":
        names += ["levels", "codebook_sizes"] + ([] if sid["codebook_sizes"] else ["items_per_sid"])
    methods = [sid["method"]]
    if sid["method"] == "sarq":
        methods.append((default["sarq"] | sid["sarq"])["base"])
    found = {name: sid[name] for name in names}
    for method in methods:
        if method == "rqkmeans":
            found |= {name: sid[name] for name in _KMEANS}
        elif method == "table":
            found["table.path"] = Path((default["table"] | sid["table"])["path"]).name
        elif isinstance(sid.get(method), dict):
            section = default.get(method, {}) | sid[method]
            found |= {
                f"{method}.{name}": value for name, value in section.items() if name not in _WATCHED
            }
    return found
