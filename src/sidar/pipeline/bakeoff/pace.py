"""``--minutes``: how many SFT steps every model may have, from the speed of this machine."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from sidar.artifacts import replace_file, sha256_json
from sidar.config import Config

#: Share of the minutes that is spent on SFT; the rest is fitting tokenizers and decoding.
TRAINING = 2 / 3
LEAST, PROBE, WARM = 20, 12, 4
FILE = "steps.json"


def steps_for(cfg: Config, folder: Path, minutes: float, models: int, root: Path) -> int:
    """SFT steps per model so that ``models`` trainings take about two thirds of ``minutes``.

    A short training of the method in ``folder`` is timed, past its first steps. The number is kept in ``root`` for the
    same question, so that a bake-off that was interrupted, or run again on a busier machine, trains the same models.
    At least 20 steps.
    """
    asked = sha256_json(
        [minutes, models, cfg.lm.model_dump(mode="json"), cfg.sft.model_dump(mode="json", exclude={"steps"})]
    )
    path = root / FILE
    if path.is_file() and (kept := json.loads(path.read_text()))["asked"] == asked:
        return int(kept["steps"])
    each = seconds_per_step(cfg, folder)
    steps = max(LEAST, int(TRAINING * 60 * minutes / (models * each)))
    replace_file(path, json.dumps({"asked": asked, "steps": steps, "seconds_per_step": each}) + "\n")
    return steps


def seconds_per_step(cfg: Config, folder: Path) -> float:
    """Wall seconds of one SFT step, over the last of a few."""
    from sidar.train import train_sft

    few = {"steps": PROBE, "log_every": 1, "validate_every": PROBE, "valid_requests": 1, "checkpoint_every": PROBE}
    own = cfg.model_copy(update={"sft": cfg.sft.model_copy(update=few)})
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "sft"
        train_sft(own, folder / "data", folder / "embed", folder / "sid", out, progress=False)
        records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    at = {record["step"]: record["seconds"] for record in records if record["kind"] == "train"}
    return float(at[PROBE] - at[WARM]) / (PROBE - WARM)
