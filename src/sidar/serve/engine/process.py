"""A model in a worker process: requests and answers as lines of JSON over its standard streams.

A line of answers is written and read by pydantic as a whole: by way of dicts it took a tenth of the
time of a search.

Processes, not threads: the small steps of a beam search hold Python's lock between them.  The files
of a bundle that are memory-mapped (catalogue, item vectors) are in memory once for all workers.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic import ConfigDict, TypeAdapter

from sidar.serve.info import NO_CHANGES, BundleInfo
from sidar.serve.request import RequestError, SearchRequest
from sidar.serve.results import SearchAnswer
from sidar.types import Json, PathLike

#: Variable of the environment in which a worker process finds its store of items.
STORE = "SIDAR_WORKER_STORE"
# a log-probability may be -inf
_ANSWERS = TypeAdapter(list[SearchAnswer], config=ConfigDict(ser_json_inf_nan="constants"))
#: What a line of answers begins with.
_ANSWERED = b'{"answers": '


class WorkerError(RuntimeError):
    """A worker process could not start, or failed at a request."""


class WorkerProcess:
    """A :class:`~sidar.serve.info.Searcher` in a process of its own; one that dies is started
    again.
    """

    def __init__(
        self, bundle: PathLike, device: str = "cpu", threads: int = 1, store: str = ""
    ) -> None:
        """Start the process and wait until it has loaded ``bundle``, with the changes of items in
        ``store``, file or URL.

        Raises :class:`WorkerError` with its words where it cannot.
        """
        self._command = [
            *(sys.executable, "-m", "sidar.serve.engine.worker"),
            *(str(bundle), "--device", device, "--threads", str(threads)),
        ]
        self._live = bool(store)
        # no argument, which every user of the machine could read: a URL may hold a password
        self._environment = os.environ | {STORE: store}
        self._turn = threading.Lock()
        self._process, self.info = self._started()

    def answer(self, requests: Sequence[SearchRequest]) -> list[SearchAnswer]:
        """Answer requests of one kind in one pass of the process.

        A pass during which the process dies is made again by its successor, once.
        """
        asked = b'{"requests": [%s]}\n' % b",".join(
            request.model_dump_json().encode() for request in requests
        )
        reply = self._asked(asked)
        if reply.startswith(_ANSWERED):
            return _ANSWERS.validate_json(reply[len(_ANSWERED) : -2])
        raise _error(reply)

    def put(self, items: Sequence[Mapping[str, Any]]) -> int:
        """Add items, or replace them whole, and return the catalogue's version with them."""
        return self._changed(put=[dict(item) for item in items])

    def patch(self, changes: Mapping[str, Json]) -> int:
        """Change fields that need no new vector."""
        return self._changed(patch=dict(changes))

    def retire(self, item_ids: Sequence[str]) -> int:
        """Take items out of every answer."""
        return self._changed(retire=list(item_ids))

    def catch_up(self) -> int:
        """Search what other processes have written down since."""
        return self._changed(catch_up=None) if self._live else self.info.version

    def _changed(self, **change: object) -> int:
        """Let the process make a change between two passes, and return its catalogue's version."""
        if not self._live:
            raise RequestError(NO_CHANGES)
        reply = self._asked(json.dumps(change, default=_json).encode() + b"\n")
        words: Json = json.loads(reply)
        if "info" not in words:
            raise _error(reply)
        self.info = BundleInfo.of_json(words["info"])
        return self.info.version

    def _asked(self, asked: bytes) -> bytes:
        """Ask the process, or its successor where it dies meanwhile."""
        with self._turn:
            try:
                return self._ask(self._process, asked)
            except (OSError, EOFError):
                self._process.kill()
                _ended(self._process)
                self._process, self.info = self._started()
                try:
                    return self._ask(self._process, asked)
                except (OSError, EOFError):
                    raise WorkerError("a worker process died twice at one pass") from None

    def close(self) -> None:
        """End the process when its pass is over."""
        with self._turn:
            _ended(self._process)

    def _started(self) -> tuple[subprocess.Popen[bytes], BundleInfo]:
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self._environment,
        )
        try:
            reply: Json = json.loads(self._reply(process))
        except EOFError:
            _ended(process)
            raise WorkerError("a worker process ended while it loaded its bundle") from None
        if "failed" in reply:
            _ended(process)
            raise WorkerError(reply["failed"])
        return process, BundleInfo.of_json(reply["info"])

    def _ask(self, process: subprocess.Popen[bytes], asked: bytes) -> bytes:
        assert process.stdin is not None
        process.stdin.write(asked)
        process.stdin.flush()
        return self._reply(process)

    @staticmethod
    def _reply(process: subprocess.Popen[bytes]) -> bytes:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        return line


def _ended(process: subprocess.Popen[bytes]) -> None:
    """End a process by closing its input, and what is open to it."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    process.wait()
    process.stdout.close()


def _error(reply: bytes) -> Exception:
    """Return the error that a process answered with."""
    words: Json = json.loads(reply)
    if "refused" in words:
        return RequestError(words["refused"])
    return WorkerError(words["failed"])


def _json(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is nothing that a worker process is asked")


def answered(answers: Sequence[SearchAnswer]) -> bytes:
    """Return the line of a worker that gives ``answers``."""
    return _ANSWERED + _ANSWERS.dump_json(list(answers)) + b"}\n"
