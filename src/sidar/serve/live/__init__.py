"""A catalogue that changes while it is searched: items come, change and go without training.

A change is written down, then a new :class:`~sidar.Retriever` over the changed catalogue takes the
place of the one that answers.  Retrievers never change, so a request sees one catalogue throughout.
"""

from sidar.serve.live.items import ItemState
from sidar.serve.live.store import BehindError, ItemStore, SqlItems, open_items

__all__ = ["BehindError", "ItemState", "ItemStore", "SqlItems", "open_items"]
