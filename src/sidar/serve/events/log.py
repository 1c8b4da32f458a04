"""The log of a service: impressions on the way, events on the disk, days as files for ``sidar``."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sidar.data.cleaning.clean import DAY_US
from sidar.data.log import pseudonym
from sidar.serve.database import StoreError
from sidar.serve.events.rows import Chosen, Shown
from sidar.serve.events.store import COLUMNS, EventStore
from sidar.types import ACTIONS, PathLike

_LOG = logging.getLogger("uvicorn.error")
#: Impressions that wait in memory at most before a search waits for the disk, and that are kept
#: while the store takes none.
MOST_WAITING, MOST_KEPT = 2000, 20_000
_TYPES = {"ts": pa.int64(), "position": pa.int32(), "value": pa.float64(), "dwell_s": pa.float64()}
_SCHEMA = pa.schema([(name, _TYPES.get(name, pa.string())) for name in COLUMNS])


class EventLog:
    """Takes what was shown and chosen, under pseudonyms, and writes days into ``folder``.

    ``folder`` None = impressions are not kept and no files are written; events and histories are.
    ``salt``: users are kept as the log's readers hash them (``privacy.salt``); None = as they are.
    """

    def __init__(
        self, store: EventStore, folder: PathLike | None = None, salt: str | None = ""
    ) -> None:
        self.store = store
        self.folder = None if folder is None else Path(folder)
        self._salt = salt
        self._waiting: list[Shown] = []
        self._turn = threading.Lock()
        # files are written by one thread at a time
        self._writing = threading.Lock()

    def user(self, user_id: str | None) -> str:
        """Return what a user is kept as; empty for nobody."""
        if not user_id:
            return ""
        return user_id if self._salt is None else pseudonym(user_id, self._salt)

    def show(self, rows: Sequence[Shown]) -> None:
        """Keep impressions soon: they wait in memory, and a crash loses the last moment's.

        Where the store takes none they wait on, and beyond :data:`MOST_KEPT` the oldest are given
        up: a search does not fail for them.
        """
        if self.folder is None:
            return
        with self._turn:
            self._waiting += rows
            many = len(self._waiting) > MOST_WAITING
        if not many:
            return
        try:
            self.flush()
        except StoreError as error:
            # the shopper gets an answer, whatever becomes of the log
            _LOG.warning("impressions wait: %s", error)

    def choose(self, events: Sequence[Chosen]) -> int:
        """Keep events, and return how many were new; they are on the disk then."""
        # an event takes query and bucket from its impression, which may still wait
        self.flush()
        return self.store.choose(events)

    def history(self, user_id: str, most: int) -> tuple[str, ...]:
        """Return the ids of the last items that a user chose, oldest first.

        None where the store does not answer: a search does not fail for it.
        """
        try:
            return tuple(self.store.history(self.user(user_id), most))
        except StoreError as error:
            _LOG.warning("a search goes without its user's history: %s", error)
            return ()

    def erase(self, user_id: str) -> int:
        """Forget a user: history, events, impressions, and their lines in the files."""
        self.flush()
        rows = self.store.erase(self.user(user_id))
        self.write_days()
        return rows

    def flush(self) -> None:
        """Bring the impressions that wait to the disk.

        Raises :class:`~sidar.serve.database.StoreError` where it takes none; the newest wait on.
        """
        with self._turn:
            if self._waiting:
                del self._waiting[:-MOST_KEPT]
                self.store.show(self._waiting)
                self._waiting = []

    def write_days(self) -> list[Path]:
        """Write the files of all days that changed and return them: ``events-2026-11-28.parquet``.

        A file is replaced as a whole. Each is a log that every command reads (``events.path``).
        """
        if self.folder is None:
            return []
        with self._writing:
            self.flush()
            days = self.store.changed_days()
            paths = [self._write(day) for day in days]
            self.store.written(days)
            return paths

    def close(self) -> None:
        """Write what is left and let go of the store, whether or not it takes it."""
        try:
            self.write_days()
            self.flush()
        finally:
            self.store.close()

    def _write(self, day: int) -> Path:
        assert self.folder is not None
        date = datetime.fromtimestamp(day * DAY_US / 1_000_000, UTC).strftime("%Y-%m-%d")
        path = self.folder / f"events-{date}.parquet"
        rows = self.store.day(day)
        if not rows:
            path.unlink(missing_ok=True)
            return path
        columns = dict(zip(COLUMNS, map(list, zip(*rows, strict=True)), strict=True))
        columns["action"] = [ACTIONS[int(str(code))] for code in columns["action"]]
        table = pa.table(columns, schema=_SCHEMA)
        self.folder.mkdir(parents=True, exist_ok=True)
        # replicas may share the folder
        draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        try:
            pq.write_table(table, draft)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        return path


def now_us() -> int:
    """Return the moment as the log has it: µs UTC."""
    return time.time_ns() // 1000
