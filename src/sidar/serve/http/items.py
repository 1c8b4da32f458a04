"""The routes that change the catalogue while it is searched."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any

import anyio
import anyio.to_thread
import pyarrow as pa
from fastapi import APIRouter, Body, Depends, Query

from sidar.serve.http.access import Access
from sidar.serve.http.changes import Changed, Id, Item, Patch
from sidar.serve.http.responses import LIMITED, UNREADY, WRONG
from sidar.serve.info import LiveModel
from sidar.serve.request import RequestError
from sidar.types import CATALOGUE_SCHEMA

#: Seconds between two looks for what another replica has changed.
FOLLOW_SECONDS = 0.5
#: Makes a change where the catalogue is, and returns its version.
ChangeItems = Callable[[Callable[[LiveModel], int]], int]


def item_routes(change_items: ChangeItems, access: Access, most: int) -> APIRouter:
    """Return the routes of items; ``most`` come in one request."""
    router = APIRouter(
        prefix="/v1/items",
        dependencies=[Depends(access.needs("write"))],
        responses=LIMITED | WRONG | UNREADY,
    )

    async def change(act: Callable[[LiveModel], int], items: int) -> Changed:
        if items > most:
            raise RequestError(f"{items} items are above this server's limit of {most:,}")
        version = await anyio.to_thread.run_sync(change_items, act)
        return Changed(items=items, catalogue_version=version)

    @router.put("", summary="Add items, or replace them")
    async def put(items: list[Item] = Body(embed=True)) -> Changed:
        """Encoded by the bundle's own encoder and codebooks, on the disk and searched when this
        answers.
        """
        rows = [_row(item) for item in items]
        return await change(lambda searcher: searcher.put(rows), len(rows))

    @router.patch("", summary="Change price, stock or picture of items")
    async def patch(items: list[Patch] = Body(embed=True)) -> Changed:
        """On the disk and shown when this answers; vectors and Semantic IDs stay."""
        changes = {item.item_id: item.model_dump(exclude_unset=True) for item in items}
        return await change(lambda searcher: searcher.patch(changes), len(items))

    @router.delete("", summary="Retire items")
    async def retire(item_id: Annotated[list[Id], Query(min_length=1)]) -> Changed:
        """No search returns them from now on."""
        return await change(lambda searcher: searcher.retire(item_id), len(item_id))

    return router


async def keep_followed(follow: Callable[[], None]) -> None:
    """Search what other replicas have changed, again and again."""
    while True:
        await anyio.sleep(FOLLOW_SECONDS)
        await anyio.to_thread.run_sync(follow)


def _row(item: Item) -> dict[str, Any]:
    """Return an item as the catalogue has it; ``RequestError`` where the catalogue could not keep
    it, for then it must not be written down either.
    """
    row = item.model_dump()
    try:
        row["category"] = list(item.category)
        row["attributes"] = None if item.attributes is None else _object(item.attributes)
        row["created"] = None if item.created is None else in_utc(item.created)
        pa.Table.from_pylist([row], schema=CATALOGUE_SCHEMA)
    except UnicodeEncodeError:
        raise RequestError(f"item {item.item_id!r}: a text is no valid Unicode") from None
    except (ValueError, OverflowError, RecursionError, pa.ArrowException) as error:
        raise RequestError(f"item {item.item_id!r}: {error}") from None
    if "\x00" in item.item_id:  # not every store can keep it
        raise RequestError(f"item {item.item_id!r}: an id has no null character")
    return row


def in_utc(moment: datetime) -> datetime:
    """Return ``moment`` in UTC, which is also meant where it names no zone."""
    try:
        return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
    except OverflowError:
        raise ValueError(f"created: {moment.isoformat()} is beyond the years 1 to 9999") from None


def _object(attributes: dict[str, Any]) -> str:
    """Return attributes as JSON that every reader of the catalogue takes."""
    try:
        json.dumps(attributes, ensure_ascii=False).encode()
        text = json.dumps(attributes, allow_nan=False)
    except UnicodeEncodeError:
        raise
    except ValueError:
        raise ValueError("attributes: a number is not finite") from None
    # a filter reads numbers as floats
    json.loads(text, parse_int=_readable_integer)
    return text


def _readable_integer(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"attributes: the number {digits[:12]}… is too large")
    return number
