"""What codebooks are made of: k-means, and rules on how items fill codes."""
