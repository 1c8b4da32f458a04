"""The routes that take what shoppers chose, and that forget them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Annotated

import anyio
import anyio.to_thread
from fastapi import APIRouter, Body, Depends, Path

from sidar.data.cleaning.clean import DAY_US
from sidar.serve.database import StoreError
from sidar.serve.events import Chosen, EventLog
from sidar.serve.events.log import now_us
from sidar.serve.http.access import Access
from sidar.serve.http.changes import Erased, Event, Files, Taken
from sidar.serve.http.responses import LIMITED, UNREADY, WRONG
from sidar.serve.request import RequestError
from sidar.types import ACTIONS

#: Seconds between two looks for impressions that wait, and for days whose files are old.
FLUSH_SECONDS, WRITE_SECONDS = 1.0, 60.0
_LOG = logging.getLogger("uvicorn.error")


def event_routes(log: EventLog, access: Access, most: int) -> APIRouter:
    """Return the routes of events and users; ``most`` events come in one request."""
    router = APIRouter(
        dependencies=[Depends(access.needs("write"))], responses=LIMITED | WRONG | UNREADY
    )

    @router.post("/v1/events", summary="Take clicks, carts and orders")
    async def events(events: list[Event] = Body(embed=True)) -> Taken:
        """An event is acknowledged when it is on the disk, and may be sent again."""
        if len(events) > most:
            raise RequestError(f"{len(events)} events are above this server's limit of {most:,}")
        now = now_us()
        chosen = [_chosen(event, log, now) for event in events]
        new = await anyio.to_thread.run_sync(log.choose, chosen)
        return Taken(accepted=new, repeated=len(events) - new)

    @router.post("/v1/events/files", summary="Write the files of the log now")
    async def files() -> Files:
        """Else they are written every minute, and at the end."""
        paths = await anyio.to_thread.run_sync(log.write_days)
        return Files(files=[path.name for path in paths])

    @router.delete("/v1/users/{user_id}", summary="Forget a user")
    async def forget(user_id: Annotated[str, Path(max_length=256)]) -> Erased:
        """Erases history, events and impressions, in the store and in the files of the log.

        What a memory has counted already is no part of it: it holds no users.
        """
        return Erased(rows=await anyio.to_thread.run_sync(log.erase, user_id))

    return router


async def keep_written(log: EventLog) -> None:
    """Bring impressions to the disk and days into their files, again and again."""
    flushes = int(WRITE_SECONDS / FLUSH_SECONDS)
    while True:
        for _ in range(flushes):
            await anyio.sleep(FLUSH_SECONDS)
            await _try(log.flush)
        await _try(log.write_days)


async def close_log(log: EventLog) -> None:
    """Write what is left and close the store; a full disk does not keep the process from ending."""
    await _try(log.close)


async def _try(write: Callable[[], object]) -> None:
    """Write, or say why not: a disk that is full now need not be at the next time."""
    try:
        await anyio.to_thread.run_sync(write)
    except (StoreError, OSError) as error:
        _LOG.warning("the log of answers waits: %s", error)


def _chosen(event: Event, log: EventLog, now: int) -> Chosen:
    # a client's clock may be ahead, and a day of the future would fade every count before it
    if event.ts is not None and event.ts > now + DAY_US:
        raise RequestError(f"event {event.event_id!r}: ts {event.ts} is after tomorrow")
    fields = event.model_dump(exclude={"user_id", "action", "ts"})
    for name, value in fields.items():
        if isinstance(value, str) and not _encodable(value):
            raise RequestError(f"event: {name} is no valid Unicode")
    return Chosen(
        **fields,
        ts=now if event.ts is None else event.ts,
        action=ACTIONS.index(event.action),
        user=None if event.user_id is None else log.user(event.user_id),
    )


def _encodable(text: str) -> bool:
    """Return whether ``text`` can be written: JSON can escape half a character."""
    return text == text.encode("utf-8", "replace").decode()
