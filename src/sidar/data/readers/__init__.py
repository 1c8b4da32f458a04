"""One file per format; each yields the contract's raw columns
(:class:`~sidar.data.readers.source.Source`).
"""

from __future__ import annotations

from sidar.config import CatalogueConfig, EventsConfig
from sidar.data.duck import Duck
from sidar.data.readers import esci, esci_full, jdsearch, kuaisearch, sequences, ubi
from sidar.data.readers.source import EVENT_COLUMNS, ITEM_COLUMNS, Source
from sidar.data.readers.tabular import open_table

_ITEMS = {
    "esci": esci.open_items,
    "esci_full": esci_full.open_items,
    "sequences": sequences.open_items,
    "kuaisearch": kuaisearch.open_items,
    "jdsearch": jdsearch.open_items,
}
_EVENTS = {
    "ubi": ubi.open_events,
    "esci_full": esci_full.open_events,
    "sequences": sequences.open_events,
    "kuaisearch": kuaisearch.open_events,
    "jdsearch": jdsearch.open_events,
}


def open_items(duck: Duck, config: CatalogueConfig) -> Source:
    """The raw catalogue that the config names."""
    if config.format in _ITEMS:
        return _ITEMS[config.format](duck, config)
    return open_table(
        duck,
        config.path,
        config.columns,
        ITEM_COLUMNS,
        ("item_id", "title"),
        "catalogue",
        config.decimal,
    )


def open_events(duck: Duck, config: EventsConfig) -> Source:
    """The raw log that the config names."""
    if config.format in _EVENTS:
        return _EVENTS[config.format](duck, config)
    return open_table(
        duck,
        config.path,
        config.columns,
        EVENT_COLUMNS,
        ("ts", "item_id"),
        "events",
        config.decimal,
    )
