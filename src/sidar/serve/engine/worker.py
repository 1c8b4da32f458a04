"""The worker process of :mod:`sidar.serve.engine.process`: load a bundle, answer line by line."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from typing import TYPE_CHECKING, BinaryIO

from sidar.serve.browse.views import BrowseRequest
from sidar.serve.engine.process import answered
from sidar.serve.request import RequestError, SearchRequest
from sidar.serve.why import WhyRequest
from sidar.types import Json

if TYPE_CHECKING:
    from sidar.serve.retriever import Retriever


def main() -> None:
    """Answer requests from standard input until it is closed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    # a signal to the server's process group must not end a pass that the server waits for
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # whatever a library prints must not come between the answers
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        import torch

        from sidar.serve.retriever import Retriever

        torch.set_num_threads(options.threads)
        retriever = Retriever.load(options.bundle, options.device)
    except Exception as error:
        _write(replies, _words(failed=f"{type(error).__name__}: {error}"))
        return
    _write(replies, _words(info=retriever.info.to_json()))
    for line in sys.stdin:
        _write(replies, _reply(retriever, json.loads(line)))


def _reply(retriever: Retriever, asked: Json) -> bytes:
    try:
        requests = [_request(fields) for fields in asked["requests"]]
        return answered(retriever.answer(requests))
    except RequestError as error:
        return _words(refused=str(error))
    except Exception as error:
        return _words(failed=f"{type(error).__name__}: {error}")


def _words(**fields: object) -> bytes:
    return json.dumps(fields).encode() + b"\n"


def _request(fields: Json) -> SearchRequest:
    kind = BrowseRequest if "view" in fields else SearchRequest
    return (WhyRequest if "item_id" in fields else kind).model_validate(fields)


def _write(replies: BinaryIO, line: bytes) -> None:
    replies.write(line)
    replies.flush()


if __name__ == "__main__":
    main()
