"""Quantisers behind an encoder: their model, losses and training."""
