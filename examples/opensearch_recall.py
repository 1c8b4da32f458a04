"""Sidar as one more recall channel of an OpenSearch or Elasticsearch index.

    python examples/opensearch_recall.py "kitchen towel" --engine http://127.0.0.1:9200 \
        --index products --sidar http://127.0.0.1:8000 --k 10

The engine ranks with its own query, Sidar ranks with its model, and both lists are merged by
reciprocal rank fusion: score(d) = Σ w / (60 + rank(d)) over the lists that hold d [source: Cormack,
Clarke and Büttcher, "Reciprocal rank fusion outperforms Condorcet and individual rank learning
methods", SIGIR 2009]. What only Sidar found is read from the index by its id, so every hit has the
document that the engine has now; an id that the index lacks is left out.

Only ``POST /{index}/_search`` and ``POST /{index}/_mget`` are used, which both engines have. The
items' ids must be the documents' ids. See docs/clients.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from sidar.client import Client

#: Ranks count 1/61, 1/62, …; 60 is the constant of the paper, and both engines' default.
RANK_CONSTANT = 60


@dataclass(frozen=True)
class Document:
    """A document, its fused score, and its rank in each list that holds it."""

    item_id: str
    score: float
    ranks: Mapping[str, int]
    source: Mapping[str, Any]


def fuse(lists: Mapping[str, Sequence[str]], weights: Mapping[str, float]) -> dict[str, float]:
    """Return Σ weight / (60 + rank) of every id, best first; ties as they came."""
    scores: dict[str, float] = {}
    for name, ids in lists.items():
        for rank, item_id in enumerate(ids, 1):
            scores[item_id] = scores.get(item_id, 0.0) + weights[name] / (RANK_CONSTANT + rank)
    return dict(sorted(scores.items(), key=lambda pair: -pair[1]))


@dataclass
class HybridSearch:
    """A search in an index with Sidar as a channel beside it.

    ``http`` is a client at the engine's address; the keys of an engine (basic authentication, an
    ``Authorization: ApiKey`` header) belong there. ``fields`` are those that the engine's own
    query reads, ``depth`` is how many ids each list has at most.
    """

    http: httpx.Client
    index: str
    sidar: Client
    fields: Sequence[str] = ("title^2", "brand", "text")
    depth: int = 50
    weights: Mapping[str, float] = field(default_factory=lambda: {"engine": 1.0, "sidar": 1.0})

    def search(
        self,
        query: str,
        k: int = 10,
        engine_filter: Sequence[Mapping[str, Any]] = (),
        sidar_filter: str | None = None,
    ) -> list[Document]:
        """Return the ``k`` best documents of both lists; a list of weight 0 is not asked for.

        The two filters say the same in the two languages, e.g.
        ``[{"range": {"price": {"lt": 30}}}]`` and ``"price < 30"``.
        """
        documents: dict[str, Mapping[str, Any]] = {}
        lists: dict[str, list[str]] = {}
        if self.weights["engine"]:
            documents |= self._engine(query, engine_filter)
            lists["engine"] = list(documents)
        if self.weights["sidar"]:
            answer = self.sidar.search(
                query, max(k, self.depth), filter=sidar_filter, fields=("item_id",)
            )
            lists["sidar"] = [hit.item_id for hit in answer.hits]
        scores = fuse(lists, self.weights)
        documents |= self._read([item_id for item_id in scores if item_id not in documents])
        return [
            Document(
                item_id,
                score,
                {name: ids.index(item_id) + 1 for name, ids in lists.items() if item_id in ids},
                documents[item_id],
            )
            for item_id, score in scores.items()
            if item_id in documents
        ][:k]

    def _engine(
        self, query: str, engine_filter: Sequence[Mapping[str, Any]]
    ) -> dict[str, Mapping[str, Any]]:
        """Return documents by id, in the engine's own order."""
        text = {"multi_match": {"query": query, "fields": list(self.fields)}}
        body = {
            "size": self.depth,
            "query": {"bool": {"must": [text], "filter": list(engine_filter)}},
        }
        hits = self._post("_search", body)["hits"]["hits"]
        return {hit["_id"]: hit["_source"] for hit in hits}

    def _read(self, ids: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        """Return the documents of ``ids`` that the index has."""
        if not ids:  # both engines refuse an empty list
            return {}
        documents = self._post("_mget", {"ids": list(ids)})["docs"]
        return {doc["_id"]: doc["_source"] for doc in documents if doc.get("found")}

    def _post(self, endpoint: str, body: Mapping[str, Any]) -> Any:
        reply = self.http.post(f"/{self.index}/{endpoint}", json=body)
        reply.raise_for_status()
        return reply.json()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("query")
    parser.add_argument("--engine", default="http://127.0.0.1:9200")
    parser.add_argument("--index", default="products")
    parser.add_argument("--sidar", default="http://127.0.0.1:8000")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--engine-weight", type=float, default=1.0)
    args = parser.parse_args()
    weights = {"engine": args.engine_weight, "sidar": 1.0}
    with httpx.Client(base_url=args.engine, timeout=10) as http, Client(args.sidar) as sidar:
        search = HybridSearch(http, args.index, sidar, weights=weights)
        for document in search.search(args.query, args.k):
            print(json.dumps({"item_id": document.item_id, **document.source}))


if __name__ == "__main__":
    main()
