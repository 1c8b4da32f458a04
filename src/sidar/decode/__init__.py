"""Searching an index with a scorer: beam, exact, free and sampled, and the exact invalid mass."""

from sidar.decode.beam import Beams, beam_search
from sidar.decode.exact import exact_search, score_all
from sidar.decode.free import KINDS, FreeBeams, free_beam_search, kind_shares
from sidar.decode.hits import to_hits
from sidar.decode.mass import invalid_mass, uniform_invalid_mass
from sidar.decode.protocol import FreeScorer, Scorer
from sidar.decode.sample import METHODS, sample
from sidar.decode.several import Answers, several_search
from sidar.decode.table import TableScorer
from sidar.decode.trie import LiveMasks, Trie

__all__ = [
    "KINDS",
    "METHODS",
    "Answers",
    "Beams",
    "FreeBeams",
    "FreeScorer",
    "LiveMasks",
    "Scorer",
    "TableScorer",
    "Trie",
    "beam_search",
    "exact_search",
    "free_beam_search",
    "invalid_mass",
    "kind_shares",
    "sample",
    "score_all",
    "several_search",
    "to_hits",
    "uniform_invalid_mass",
]
