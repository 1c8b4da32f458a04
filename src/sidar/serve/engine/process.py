"""A model in a worker process: requests and answers as lines of JSON over its standard streams.

A line of answers is written and read by pydantic as a whole: by way of dicts it took a tenth of the
time of a search.

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

from pydantic import ConfigDict, TypeAdapter

from sidar.serve.info import BundleInfo
from sidar.serve.request import RequestError, SearchRequest
from sidar.serve.results import SearchAnswer
from sidar.types import Json, PathLike

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
        asked = b'{"requests": [%s]}\n' % b",".join(
            request.model_dump_json().encode() for request in requests
        )
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
        if reply.startswith(_ANSWERED):
            return _ANSWERS.validate_json(reply[len(_ANSWERED) : -2])
        words: Json = json.loads(reply)
        if "refused" in words:
            raise RequestError(words["refused"])
        raise WorkerError(words["failed"])

    def close(self) -> None:
        """End the process when its pass is over."""
        with self._turn:
            _ended(self._process)

    def _started(self) -> tuple[subprocess.Popen[bytes], BundleInfo]:
        process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
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


def answered(answers: Sequence[SearchAnswer]) -> bytes:
    """Return the line of a worker that gives ``answers``."""
    return _ANSWERED + _ANSWERS.dump_json(list(answers)) + b"}\n"
