"""The two budgets that all methods share: bits of code per item, and steps of training."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pydantic import JsonValue

from sidar.artifacts import replace_file, sha256_json
from sidar.config import Config
from sidar.sid.codebooks.lengths import code_bits
from sidar.types import Json, SemanticIds

#: Two code budgets are equal within this share.
TOLERANCE = 0.01
#: Changes of size until a method keeps the budget.
TRIES = 3
#: Share of the minutes for SFT; the rest is for fitting tokenizers and decoding.
TRAINING = 2 / 3
#: Fewest SFT steps; steps of a timed training, and how many of them come before the clock starts.
LEAST, PROBE, WARM = 20, 12, 4


def bits_per_item(sids: SemanticIds) -> float:
    """Return the mean over items of the sum of log₂ K over their codes; 0 without any item."""
    lengths = sids.lengths[sids.lengths > 0]
    return code_bits(lengths, sids.codebook_sizes) / max(len(lengths), 1)


def fits(bits: float, wanted: float) -> bool:
    """Return whether the two budgets are equal within :data:`TOLERANCE`."""
    return abs(bits - wanted) <= TOLERANCE * wanted


def resized(asked: Sequence[int], bits: float, wanted: float) -> tuple[int, ...]:
    """Return the sizes to ask for, when asking for ``asked`` gave ``bits`` per item.

    Every level is scaled by the same factor, so that the shape of the tree stays; the last level
    takes up the rounding. A level has at least 2 codes.
    """
    factor = 2.0 ** ((wanted - bits) / len(asked))
    sizes = [max(2, round(size * factor)) for size in asked[:-1]]
    changes = [np.log2(new / old) for new, old in zip(sizes, asked[:-1], strict=True)]
    left = wanted - bits - float(sum(changes))
    return (*sizes, max(2, round(asked[-1] * 2.0**left)))


class KeptAnswer:
    """A value found by trying, in a file beside the question that it answers."""

    def __init__(self, path: Path, question: JsonValue) -> None:
        self.path = path
        self.question = sha256_json(question)

    def read(self) -> Json:
        """Return what was kept; empty where nothing is, or where it answers another question."""
        if not self.path.is_file():
            return {}
        kept: Json = json.loads(self.path.read_text())
        return kept if kept["asked"] == self.question else {}

    def write(self, values: Mapping[str, JsonValue]) -> None:
        """Replace what is kept."""
        replace_file(self.path, json.dumps({"asked": self.question, **values}) + "\n")


def sft_steps(cfg: Config, folder: Path, minutes: float, models: int, root: Path) -> int:
    """Return the SFT steps with which ``models`` trainings take two thirds of ``minutes``.

    A short training of the method in ``folder`` is timed. The number is kept in ``root``, so that a
    comparison that was interrupted, or is run again on a busier machine, trains the same models.
    """
    lm = cfg.lm.model_dump(mode="json")
    sft = cfg.sft.model_dump(mode="json", exclude={"steps"})
    kept = KeptAnswer(root / "steps.json", [minutes, models, lm, sft])
    answer = kept.read()
    if not answer:
        seconds = seconds_per_step(cfg, folder)
        steps = max(LEAST, int(TRAINING * 60 * minutes / (models * seconds)))
        answer = {"steps": steps, "seconds_per_step": seconds}
        kept.write(answer)
    return int(answer["steps"])


def seconds_per_step(cfg: Config, folder: Path) -> float:
    """Return the wall seconds of one SFT step, over the last of a few."""
    from sidar.train import train_sft

    few = {
        "steps": PROBE,
        "log_every": 1,
        "validate_every": PROBE,
        "valid_requests": 1,
        "checkpoint_every": PROBE,
    }
    probe = cfg.model_copy(update={"sft": cfg.sft.model_copy(update=few)})
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "sft"
        inputs = (folder / name for name in ("data", "embed", "sid"))
        train_sft(probe, *inputs, out, progress=False)
        records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    at = {record["step"]: record["seconds"] for record in records if record["kind"] == "train"}
    return float(at[PROBE] - at[WARM]) / (PROBE - WARM)
