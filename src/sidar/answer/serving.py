"""The answer behind a service: lexical and dense channels beside the model's hits,
and the memory.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sidar.answer.memory import Memory
from sidar.answer.smoothed import Answer, AnswerParams, SmoothedMemory
from sidar.baselines import DEPTH, Bm25
from sidar.baselines.dense import VectorChannel
from sidar.types import Catalogue, Hits, PathLike

FILE = "answer.json"
FORMAT = 1
#: Name of the channel that the language model is, whichever model it is.
GENERATIVE = "generative"


@dataclass(frozen=True)
class FusedAnswer:
    """Everything but the model that a fused answer reads; ``reranked``: the generative channel is
    reranked first.
    """

    lexical: Bm25
    dense: VectorChannel
    model: SmoothedMemory
    reranked: bool

    def channels(
        self, queries: Sequence[str], vectors: np.ndarray, generative: Hits
    ) -> dict[str, Hits]:
        """Return the results of every channel that the answer was fitted with; ``vectors`` (Q, D)
        of the queries.
        """
        found = {
            "bm25": self.lexical.search(queries, DEPTH),
            "dense": self.dense.search_vectors(vectors, DEPTH),
            GENERATIVE: generative,
        }
        return {name: found[name] for name in self.model.params.channels}

    def rank(self, queries: Sequence[str], channels: Mapping[str, Hits], k: int) -> Answer:
        """Return the k most probable items of each query."""
        return self.model.rank(queries, channels, k)


def read_facts(folder: PathLike) -> dict[str, Any]:
    """Read ``answer.json``; ``ValueError`` for a missing file or another format."""
    path = Path(folder) / FILE
    if not path.is_file():
        raise ValueError(f"{path} does not exist; it is made by `sidar run`")
    facts: dict[str, Any] = json.loads(path.read_text())
    if facts.get("format") != FORMAT:
        raise ValueError(
            f"{path} has format {facts.get('format')}, Sidar reads {FORMAT}; run `sidar run` again"
        )
    return facts


def write_facts(folder: PathLike, facts: Mapping[str, Any]) -> None:
    """Write ``answer.json``."""
    (Path(folder) / FILE).write_text(json.dumps({"format": FORMAT, **facts}, indent=1) + "\n")


def params_of(facts: Mapping[str, Any], name: str = "fit") -> AnswerParams:
    """The fitted constants in ``answer.json``: ``fit`` with the model, ``without_generative``
    without.
    """
    return AnswerParams(**facts[name]["params"])


def dense_probes(facts: Mapping[str, Any]) -> int | None:
    """Lists of the dense channel's index that a query looks into, as in ``answer.json``; None =
    exact search.
    """
    nprobe = facts.get("dense", {}).get("nprobe")
    return None if nprobe is None else int(nprobe)


def open_answer(
    folder: PathLike, catalogue: Catalogue, counts: np.ndarray, dense: VectorChannel, secret: bytes
) -> FusedAnswer:
    """Open the answer of a bundle or run; ``counts`` (N,) are training clicks by row.

    Raises ``ValueError`` where the memory was made with another key or for another catalogue.
    """
    folder = Path(folder)
    facts = read_facts(folder)
    memory = Memory.load(folder).check(secret, catalogue.lineage, str(folder))
    model = SmoothedMemory(params_of(facts), counts, catalogue.alive, memory, secret)
    return FusedAnswer(Bm25.load(folder, catalogue.alive), dense, model, facts["reranked"])
