"""Catalogue and log contracts: readers, validation, requests, examples, splits and evaluation sets.

Imports neither torch nor anything above :mod:`sidar.types`, :mod:`sidar.config` and
:mod:`sidar.artifacts`.
"""

from sidar.data.cleaning.quarantine import Quarantine
from sidar.data.dataset import Dataset, open_dataset
from sidar.data.products import read_catalogue
from sidar.data.stage import build
from sidar.data.training.priors import Priors

__all__ = ["Dataset", "Priors", "Quarantine", "build", "open_dataset", "read_catalogue"]
