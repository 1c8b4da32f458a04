"""The served answer with each model as its generative channel: what alignment is worth behind
memory, BM25 and dense search (docs/answer.md).

BM25, the dense channel and the counts are the same for every model, so their results are kept once
in the bed's folder ``answer``; a model is asked for the same requests, and the constants of the
answer are fitted with it on day 7.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.alignment.bed import Bed
from experiments.raddpo.sets import Pool
from sidar.answer.facts import GENERATIVE
from sidar.answer.smoothed import SmoothedMemory, popularity
from sidar.baselines import DEPTH, Bm25, System
from sidar.data import open_dataset
from sidar.pipeline.rows.answer_log import Log, read_log
from sidar.types import Hits, Prompt

#: Key of the queries' hashes; the traffic is simulated, so it need not be secret.
SECRET = b"experiments.alignment"


@dataclass(frozen=True)
class Channels:
    """What does not depend on the model: the log's counts and requests, and both channels' results
    for the fitting requests (``fitting``) and for the pool (``pool``).
    """

    log: Log
    fitting: dict[str, Hits]
    pool: dict[str, Hits]

    @classmethod
    def of(cls, bed: Bed, pool: Pool) -> Channels:
        """Return the channels of ``bed`` for ``pool``, from its folder or made now."""
        path = bed.work / "answer" / f"{pool.name}.pickle"
        if path.is_file():
            kept: Channels = pickle.loads(path.read_bytes())
            return kept
        made = cls._make(bed, pool)
        path.parent.mkdir(exist_ok=True)
        _write(path, pickle.dumps(made))
        return made

    @classmethod
    def _make(cls, bed: Bed, pool: Pool) -> Channels:
        from sidar.embed import load_embedder
        from sidar.evaluate.systems import TextSystem
        from sidar.pipeline.rows.answering import tuned_lexical
        from sidar.pipeline.rows.dense_rows import answer_dense

        cfg = bed.config(device="cpu", threads=1)
        catalogue = open_dataset(bed.data()).catalogue
        log = read_log(cfg, bed.data(), SECRET, bed.work / ".answer-log")
        embedder = load_embedder(cfg.embed, "cpu")
        dense, _, _ = answer_dense(cfg, bed.embed, embedder, catalogue.alive)
        lexical = tuned_lexical(Bm25(catalogue), log.asked, catalogue)
        systems: dict[str, System] = {"bm25": TextSystem("bm25", lexical), "dense": dense}

        def ask(prompts: tuple[Prompt, ...]) -> dict[str, Hits]:
            return {name: system.hits(prompts, DEPTH) for name, system in systems.items()}

        return cls(log, ask(log.asked.prompts), ask(pool.prompts))


def _write(path: Path, content: bytes) -> None:
    tmp = path.with_name(f".{path.name}.tmp")
    tmp.write_bytes(content)
    tmp.replace(path)


def answers(
    bed: Bed, channels: Channels, pool: Pool, fitting: Hits | None, hits: Hits | None, k: int
) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the rows (Q, k) of the served answer to ``pool``, and its fitted constants.

    ``fitting`` and ``hits`` are the model's results for the fitting requests and for the pool; None
    = the answer without a model.
    """
    from sidar.answer.fit import fit_answer

    dataset = open_dataset(bed.data())
    alive, clicks = dataset.catalogue.alive, dataset.priors().clicks
    fit_on, asked = dict(channels.fitting), dict(channels.pool)
    if fitting is not None and hits is not None:
        fit_on[GENERATIVE], asked[GENERATIVE] = fitting, hits
    log = channels.log
    fitted = fit_answer(fit_on, log.chosen, popularity(clicks, alive), int(alive.sum()))
    memory = SmoothedMemory(fitted.params, clicks, alive, log.memory, SECRET)
    ranked = memory.rank([prompt.query for prompt in pool.prompts], asked, k)
    return ranked.hits.rows, fitted.to_json()
