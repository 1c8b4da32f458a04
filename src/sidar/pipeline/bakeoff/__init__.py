"""The tokenizer bake-off (``sidar compare-sids``): which Semantic IDs are best for this catalogue, and why."""

from sidar.pipeline.bakeoff.entrants import DEFAULT, KNOWN, REFERENCE, entrants

__all__ = ["DEFAULT", "KNOWN", "REFERENCE", "entrants"]
