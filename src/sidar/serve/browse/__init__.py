"""Look into the catalogue of a bundle beside searching it."""
