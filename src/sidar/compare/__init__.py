"""The comparison of tokenizers (``sidar compare-sids``): which Semantic IDs suit a catalogue."""
