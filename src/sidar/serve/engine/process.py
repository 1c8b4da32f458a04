"""A model in a worker process: requests and answers as lines of JSON over its standard streams.

Processes, not threads: the small steps of a beam search hold Python's lock between them.  The files
of a bundle that are memory-mapped (catalogue, item vectors) are in memory once for all workers.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter

from sidar.serve.info import BundleInfo
from sidar.serve.request import RequestError, SearchRequest
from sidar.serve.results import SearchAnswer
from sidar.types import Json, PathLike

_ANSWER = TypeAdapter(SearchAnswer)


class WorkerError(RuntimeError):
    """A worker process could not start, or failed at a request."""


class WorkerProcess:
    """A :class:`~sidar.serve.info.Searcher` in a process of its own; one that dies is started
    again.
    """

    def __init__(self, bundle: PathLike, device: str = "cpu", threads: int = 1) -> None:
        """Start the process and wait until it has loaded ``bundle``.

        Raises :class:`WorkerError` with its words where it cannot.
        """
        self._command = [
            *(sys.executable, "-m", "sidar.serve.engine.worker"),
            *(str(bundle), "--device", device, "--threads", str(threads)),
        ]
        self._turn = threading.Lock()
        self._process, self.info = self._started()

    def answer(self, requests: Sequence[SearchRequest]) -> list[SearchAnswer]:
        """Answer requests of one kind in one pass of the process.

        A pass during which the process dies is made again by its successor, once.
        """
        asked = {"requests": [request.model_dump(mode="json") for request in requests]}
        with self._turn:
            try:
                reply = self._ask(self._process, asked)
            except (OSError, EOFError):
                self._process.kill()
                _ended(self._process)
                self._process, self.info = self._started()
                try:
                    reply = self._ask(self._process, asked)
                except (OSError, EOFError):
                    raise WorkerError("a worker process died twice at one pass") from None
        if "refused" in reply:
            raise RequestError(reply["refused"])
        if "failed" in reply:
            raise WorkerError(reply["failed"])
        return [_ANSWER.validate_python(answer) for answer in reply["answers"]]

    def close(self) -> None:
        """End the process when its pass is over."""
        with self._turn:
            _ended(self._process)

    def _started(self) -> tuple[subprocess.Popen[str], BundleInfo]:
        process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            reply = self._reply(process)
        except EOFError:
            _ended(process)
            raise WorkerError("a worker process ended while it loaded its bundle") from None
        if "failed" in reply:
            _ended(process)
            raise WorkerError(reply["failed"])
        return process, BundleInfo.of_json(reply["info"])

    def _ask(self, process: subprocess.Popen[str], asked: Json) -> Json:
        assert process.stdin is not None
        process.stdin.write(json.dumps(asked) + "\n")
        process.stdin.flush()
        return self._reply(process)

    @staticmethod
    def _reply(process: subprocess.Popen[str]) -> Json:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.endswith("\n"):
            raise EOFError
        reply: Json = json.loads(line)
        return reply


def _ended(process: subprocess.Popen[str]) -> None:
    """End a process by closing its input, and what is open to it."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    process.wait()
    process.stdout.close()


def answers_json(answers: Sequence[SearchAnswer]) -> list[dict[str, Any]]:
    """Return answers as a worker writes them."""
    return [asdict(answer) for answer in answers]
