"""How good a system is: measures, run files, intervals and tests, the table and the report."""

from sidar.evaluate.measures.expected import GroupRanking, expected_scores
from sidar.evaluate.measures.metrics import evaluate, score_ranking
from sidar.evaluate.measures.plugin_metrics import GradedRanks, register_metric
from sidar.evaluate.measures.truth import Truth
from sidar.evaluate.qrels import read_qrels, write_qrels
from sidar.evaluate.runs import hits_from_run, read_trec, run_from_hits, write_trec
from sidar.evaluate.stats import (
    PairedTest,
    bootstrap_interval,
    holm,
    paired_test,
    smallest_detectable,
    verdict,
)

__all__ = [
    "GradedRanks",
    "GroupRanking",
    "PairedTest",
    "Truth",
    "bootstrap_interval",
    "evaluate",
    "expected_scores",
    "hits_from_run",
    "holm",
    "paired_test",
    "read_qrels",
    "read_trec",
    "register_metric",
    "run_from_hits",
    "score_ranking",
    "smallest_detectable",
    "verdict",
    "write_qrels",
    "write_trec",
]
