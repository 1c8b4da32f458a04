"""Alignment objectives as pure functions of :class:`~sidar.types.CandidateScores`; nothing here
runs a model.
"""

from sidar.align.dpo import log_ratio
from sidar.align.monitor import INACTIVE, WATCHED, gradient_ratio, list_statistics
from sidar.align.rdrw import SimilarityWindow
from sidar.align.registry import Objective, Parts, names, objective, register_objective
from sidar.align.sft import multi_label_sft
from sidar.align.terms import take_rows

__all__ = [
    "INACTIVE",
    "WATCHED",
    "Objective",
    "Parts",
    "SimilarityWindow",
    "gradient_ratio",
    "list_statistics",
    "log_ratio",
    "multi_label_sft",
    "names",
    "objective",
    "register_objective",
    "take_rows",
]
