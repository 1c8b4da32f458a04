"""The bed: a home shop of some 1,500 real products under the simulator's preset ``busy``.

Folders and stages are those of the evidence for RAD-DPO (experiments.raddpo.bed); products, log and
codes are smaller, so that SFT reaches its plateau within minutes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from experiments.raddpo import bed as evidence
from experiments.raddpo.registration import registration, simulator_config, use
from sidar.config import Config
from sidar.pipeline.demo import merge
from sidar.types import Catalogue

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results" / "alignment"
#: What is kept of the learned reward: how well it orders what was shown.
REWARD = "reward.json"


def register(path: Path = HERE / "registration.yaml") -> None:
    """Work under the registration of this experiment; every process calls it first."""
    use(path)


def shop() -> Catalogue:
    """Return the products of the registered departments, as a catalogue of their own."""
    from sidar.data import sample
    from sidar.data.catalogue import found

    whole = sample.load_catalogue()
    departments = set(registration()["bed"]["departments"])
    kept = [bool(path) and path[0] in departments for path in whole.column("category")]
    return found(whole.table.filter(pa.array(kept)))


class Bed(evidence.Bed):
    """As the evidence's bed, without the judged queries: most of them ask for other products."""

    def config(self, **sections: Any) -> Config:
        alone = {"data": {"held_out": []}, "evaluate": {"sets": []}}
        return super().config(**merge(alone, sections))

    def _write_inputs(self, out: Path) -> None:
        from sidar import simulate

        simulate.run(shop(), simulator_config(), out)

    def build_reward(self, say: Callable[[str], None] = print) -> None:
        """The learned ranker in the folder above the data, where the reward ``ranker`` looks for
        it.
        """
        from sidar.answer.key import FILE
        from sidar.pipeline.rows.ranking import ranker

        run, codebooks = self.data().parent, registration()["bed"]["codebooks"]
        if not (run / "embed").exists():
            (run / "embed").symlink_to(self.embed.resolve(), target_is_directory=True)
        cfg = self.config(
            device="cpu",
            threads=1,
            memory={"key_file": str(run / FILE)},
            ranker={"enabled": True, "learner": "lambdamart"},
        )
        inputs = {
            "data": self.data(),
            "embed": self.embed,
            "sid": self.sid("/".join(map(str, codebooks))),
        }
        self._stage(
            run / "ranker",
            "ranker",
            say,
            lambda out: ranker(cfg, inputs, out, self.work / ".ranker"),
        )

    def reward_order(self) -> dict[str, dict[str, float]]:
        """Return the share of shown pairs of day 7 that the reward, the prior and the log put in
        the order of what was chosen and of true relevance.
        """
        path = self.data().parent / "ranker" / "diagnosis.json"
        return json.loads(path.read_text(encoding="utf-8"))["reward"]["order"]
