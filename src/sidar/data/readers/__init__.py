"""One file per format; each yields the contract's raw columns (:class:`~sidar.data.readers.source.Source`)."""

from __future__ import annotations

from sidar.config import CatalogueConfig, EventsConfig
from sidar.data.duck import Duck
from sidar.data.readers.source import EVENT_COLUMNS, ITEM_COLUMNS, Source
from sidar.data.readers.tabular import open_table


def open_items(duck: Duck, config: CatalogueConfig) -> Source:
    """The raw catalogue that the config names."""
    return open_table(duck, config.path, config.columns, ITEM_COLUMNS, ("item_id", "title"), "catalogue")


def open_events(duck: Duck, config: EventsConfig) -> Source:
    """The raw log that the config names."""
    return open_table(duck, config.path, config.columns, EVENT_COLUMNS, ("ts", "item_id"), "events")
