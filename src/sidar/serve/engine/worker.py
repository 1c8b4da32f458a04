"""The worker process of :mod:`sidar.serve.engine.process`: load a bundle, answer line by line."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from datetime import datetime
from typing import BinaryIO

from sidar.serve.browse.views import BrowseRequest
from sidar.serve.engine.process import STORE, answered
from sidar.serve.info import LiveModel, Searcher
from sidar.serve.request import RequestError, SearchRequest
from sidar.serve.why import WhyRequest
from sidar.types import Json


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
        model: Searcher = Retriever.load(options.bundle, options.device)
        if store := os.environ.get(STORE):
            from sidar.serve.engine.copies import live_over
            from sidar.serve.live import open_items

            assert isinstance(model, Retriever)
            model = live_over(model, options.bundle, open_items(store))
    except Exception as error:
        _write(replies, _words(failed=f"{type(error).__name__}: {error}"))
        return
    _write(replies, _words(info=model.info.to_json()))
    for line in sys.stdin:
        _write(replies, _reply(model, json.loads(line)))


def _reply(model: Searcher, asked: Json) -> bytes:
    try:
        if "requests" not in asked:
            _change(model, asked)
            return _words(info=model.info.to_json())
        requests = [_request(fields) for fields in asked["requests"]]
        return answered(model.answer(requests))
    except RequestError as error:
        return _words(refused=str(error))
    except Exception as error:
        return _words(failed=f"{type(error).__name__}: {error}")


def _change(model: Searcher, asked: Json) -> None:
    """Make the change that is asked for; ``RequestError`` where it cannot be made."""
    assert isinstance(model, LiveModel)  # the server asks none that has no store
    ((kind, what),) = asked.items()
    if kind == "put":
        model.put([item | {"created": _moment(item.get("created"))} for item in what])
    elif kind == "patch":
        model.patch(what)
    elif kind == "retire":
        model.retire(what)
    else:
        model.catch_up()


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


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
