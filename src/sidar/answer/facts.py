"""``answer.json``: what the stage ``answer`` has fitted."""

from __future__ import annotations

import json
from pathlib import Path

from sidar.answer.smoothed import AnswerParams
from sidar.types import Json, PathLike

FILE = "answer.json"
FORMAT = 1
#: Name of the channel that the language model is, whichever model it is.
GENERATIVE = "generative"


def read_facts(folder: PathLike) -> Json:
    """Read ``answer.json``; ``ValueError`` for a missing file or another format."""
    path = Path(folder) / FILE
    if not path.is_file():
        raise ValueError(f"{path} does not exist; it is made by `sidar run`")
    facts: Json = json.loads(path.read_text())
    if facts.get("format") != FORMAT:
        raise ValueError(
            f"{path} has format {facts.get('format')}, Sidar reads {FORMAT}; run `sidar run` again"
        )
    return facts


def write_facts(folder: PathLike, facts: Json) -> None:
    """Write ``answer.json``."""
    (Path(folder) / FILE).write_text(json.dumps({"format": FORMAT, **facts}, indent=1) + "\n")


def params_of(facts: Json, name: str = "fit") -> AnswerParams:
    """Return the fitted constants: ``fit`` with the model, ``without_generative`` without."""
    return AnswerParams(**facts[name]["params"])


def dense_probes(facts: Json) -> int | None:
    """Return how many lists of its index the dense channel looks into; None = exact search."""
    nprobe = facts.get("dense", {}).get("nprobe")
    return None if nprobe is None else int(nprobe)
