"""The learned ranker: one model that orders the answer, rewards SIDs and shows what a log is biased
by (docs/ranker.md).
"""
