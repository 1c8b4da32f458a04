"""CQ-SID against RQ-VAE in the two protocols of arXiv 2605.14434, beside the paper's figures.

    python experiments/tokenizers/cqsid.py sidar.yaml   measure models, then write the page
    python experiments/tokenizers/cqsid.py              write the page of the kept results again

The models are those of a finished ``sidar compare-sids`` of one seed with this config. The measures
go to ``experiments/results/cqsid.json``, the page to ``cqsid.md``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from sidar.compare.comparison import FOLDER
from sidar.compare.measure import MODEL, main_set, open_system, scored_sets
from sidar.compare.paired import PRIMARY, SECOND, Pair, Sampling, compare_pairs
from sidar.compare.results import FILE, Results
from sidar.compare.values import add_system
from sidar.config import Config, load_config
from sidar.evaluate.measures.hitrate import TRUNCATED, equal_beam, semantic, truncated
from sidar.evaluate.measures.truth import Truth
from sidar.evaluate.perquery import PerQuery, read_clusters, summarise
from sidar.evaluate.scorer import relevance_threshold
from sidar.evaluate.slices import subset_by_hash
from sidar.index import PrefixIndex
from sidar.pages.environment import environment
from sidar.serve.retriever import Retriever
from sidar.types import EvalSet, Prompt, Scores

HERE = Path(__file__).parent
METHODS = ("rqvae", "cqsid", "cqsid-no-category", "cqsid-no-queries")
BEAMS = (1, 5, 10, 50, 100)
#: CQ-SID's beam and RQ-VAE's, twice as wide.
HALVES = ((5, 10), (50, 100))
#: Queries (by hash) for the widest beam, which takes most of the time.
TRUNCATED_QUERIES = 128
MODES = ("semantic", "personalised")
#: The paper's hit rates at beams 1, 10 and 100, prompts of the query alone.
PAPER_SEMANTIC = {
    "rqvae": (0.0598, 0.2579, 0.5199),
    "cqsid": (0.0758, 0.3161, 0.6181),
    "cqsid-no-category": (0.0680, 0.2870, 0.5578),
    "cqsid-no-queries": (0.0596, 0.2691, 0.5652),
}
#: Personalised prompts: hit rate at beams 1 and 100, and among the first 1,000 items with its beam.
PAPER_PERSONALISED = {
    "rqvae": (0.1359, 0.7513, 0.7607, 195),
    "cqsid": (0.1510, 0.8062, 0.7984, 160),
}


def prompts_by_mode(prompts: Sequence[Prompt]) -> dict[str, list[Prompt]]:
    """Return the prompts as they are, and without history and profile where that differs.

    A set in which a request has no query text has no semantic prompts.
    """
    query_only, personalised = MODES
    bare = list(semantic(prompts))
    if bare == list(prompts):
        return {query_only: bare}
    if any(not prompt.query.strip() for prompt in bare):
        return {personalised: list(prompts)}
    return {personalised: list(prompts), query_only: bare}


def hit_rates(
    retriever: Retriever, index: PrefixIndex, truth: Truth, prompts: Sequence[Prompt]
) -> Scores:
    """Return hit and number of items at equal beam, each width with its own beam."""
    scores: Scores = {}
    for width in BEAMS:
        if width <= max(len(index), BEAMS[0]):
            ranked = retriever.beams(prompts, width).sids
            scores |= equal_beam(truth, index, ranked, [width])
    return scores


def truncation_beam(index: PrefixIndex) -> int:
    """Return a beam whose SIDs hold 1,000 items with room to spare, or all SIDs."""
    items_per_sid = max(len(index.rows), 1) / max(len(index), 1)
    return max(1, min(len(index), round(1.25 * TRUNCATED / items_per_sid)))


def measure_method(swept: EvalSet, retriever: Retriever) -> PerQuery:
    """Return the hit rates of one model, as ``beam/<mode>/…`` and ``top1k/<mode>/…``."""
    values, index = PerQuery(), retriever.index
    threshold, ids = relevance_threshold(swept), swept.query_ids
    some = subset_by_hash(ids, TRUNCATED_QUERIES)
    chosen = [ids[q] for q in some]
    truth, truth_of_some = (
        Truth.of_catalogue(swept.qrels, part, retriever.catalogue, threshold)
        for part in (ids, chosen)
    )
    for mode, prompts in prompts_by_mode(swept.prompts).items():
        scores = hit_rates(retriever, index, truth, prompts)
        values.add(swept.name, MODEL, f"beam/{mode}", scores, ids)
        widest = retriever.beams([prompts[q] for q in some], truncation_beam(index))
        first = truncated(truth_of_some, index, widest.sids)
        values.add(swept.name, MODEL, f"top1k/{mode}", first, chosen)
    return values


def families(question: str) -> Iterator[list[Pair]]:
    """Yield the families of tests: CQ-SID and its ablations, or CQ-SID at half the beam."""
    measures = [PRIMARY, SECOND] if question == "cqsid" else []
    for mode in MODES:
        if question == "half":
            for less, more in HALVES:
                narrow, wide = f"beam/{mode}/hit@{less}", f"beam/{mode}/hit@{more}"
                yield [Pair("cqsid", "rqvae", narrow, wide)]
        else:
            measures += [f"beam/{mode}/hit@{width}" for width in BEAMS]
            measures.append(f"top1k/{mode}/hit")
    for measure in measures:
        yield [Pair(name, "rqvae", measure) for name in METHODS[1:]]


def measure(cfg: Config) -> dict[str, object]:
    """Return cells and tests of the comparison of the run that ``cfg`` names."""
    root = cfg.run_dir / FOLDER
    results = Results.read(root / FILE)
    (seed,) = results.seeds
    names = [name for name in METHODS if name in results.complete()]
    swept = main_set(cfg, scored_sets(cfg, cfg.run_dir / "data"))
    hits = PerQuery()
    for name in names:
        retriever = open_system(cfg, root / name / f"seed-{seed}", results.model.stage).retriever
        add_system(hits, measure_method(swept, retriever), MODEL, name)
    clusters = read_clusters(root)
    cells = summarise(hits, clusters, samples=results.bootstrap, seed=cfg.seed)[swept.name]
    values = PerQuery.read(root)
    for name in names:
        add_system(values, hits, name, name)
    equal = {name for name in names if results.methods[name].equal}
    sampling = Sampling(1, cfg.seed, results.bootstrap)
    tests = []
    for question in ("cqsid", "half"):
        asked = ([p for p in family if {p.a, p.b} <= equal] for family in families(question))
        tests += compare_pairs(values, clusters, question, list(asked), sampling)
    return {
        "set": swept.name,
        "items": results.catalogue.items,
        "systems": cells,
        "tests": [asdict(test) for test in tests],
    }


def page(kept: dict[str, object]) -> str:
    """Return the page of the kept results."""
    template = environment().from_string((HERE / "cqsid.md.jinja").read_text(encoding="utf-8"))
    return template.render(
        kept,
        beams=BEAMS,
        modes=[mode for mode in MODES if f"beam/{mode}/hit@1" in kept["systems"]["cqsid"]],
        semantic=PAPER_SEMANTIC,
        personalised=PAPER_PERSONALISED,
        truncated=TRUNCATED,
    )


def main() -> None:
    path = HERE.parent / "results" / "cqsid.json"
    if len(sys.argv) > 1:
        cfg = load_config(Path(sys.argv[1]))
        path.write_text(json.dumps(measure(cfg), indent=1) + "\n")
    (HERE / "cqsid.md").write_text(page(json.loads(path.read_text())), encoding="utf-8")


if __name__ == "__main__":
    main()
