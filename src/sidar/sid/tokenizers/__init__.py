"""The tokenizers that Sidar brings, one module per method."""
