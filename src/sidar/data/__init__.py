"""Catalogue and log contracts: readers, validation, requests, examples, splits and evaluation sets."""
