"""Which alignment pays on which log, and why: a small shop on which SFT is at its plateau
(docs/alignment.md).

``python -m experiments.alignment core`` from the repository's root; everything that was fixed
beforehand stands in ``registration.yaml``.
"""
