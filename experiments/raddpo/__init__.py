"""The evidence for RAD-DPO: cells that are run, and the page that is made from them
(docs/evidence.md).

``python -m experiments.raddpo core`` from the repository's root; everything that was fixed
beforehand stands in ``registration.yaml``.
"""
