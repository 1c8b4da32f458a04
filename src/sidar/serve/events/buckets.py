"""Which model answers a user in an experiment, and the bucket that the log names."""

from __future__ import annotations

from sidar.ab.assign import bucket
from sidar.config.serve import ExperimentConfig


def bucket_of(user: str, experiment: ExperimentConfig) -> str:
    """Return the bucket of a user as :mod:`sidar.ab.assign` draws it; empty without an experiment
    or a user.
    """
    if not experiment.name or not user:
        return ""
    return bucket(user, experiment.name, experiment.shares)
