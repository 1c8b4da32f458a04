"""The routes that change the catalogue while it is searched."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any

import anyio
import anyio.to_thread
from fastapi import APIRouter, Body, Depends, Query

from sidar.serve.http.access import Access
from sidar.serve.http.changes import Changed, Id, Item, Patch
from sidar.serve.http.responses import LIMITED, UNREADY, WRONG
from sidar.serve.info import LiveModel
from sidar.serve.request import RequestError

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
    """Return an item as the catalogue has it; ``RequestError`` for text that is none."""
    row = item.model_dump()
    row["category"] = list(item.category)
    row["attributes"] = None if item.attributes is None else json.dumps(item.attributes)
    try:
        json.dumps(row, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        raise RequestError(f"item {item.item_id!r}: a text is no valid Unicode") from None
    if "\x00" in item.item_id:  # not every store can keep it
        raise RequestError(f"item {item.item_id!r}: an id has no null character")
    return row
