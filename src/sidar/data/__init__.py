"""Catalogue and log contracts: readers, validation, requests, examples, splits and evaluation sets.

Imports neither torch nor anything above :mod:`sidar.types`, :mod:`sidar.config` and
:mod:`sidar.artifacts`.
"""

from sidar.data.dataset import Dataset, open_dataset
from sidar.data.priors import Priors
from sidar.data.products import read_catalogue
from sidar.data.quarantine import Quarantine
from sidar.data.stage import build

__all__ = ["Dataset", "Priors", "Quarantine", "build", "open_dataset", "read_catalogue"]
