"""The log as JSON lines: one per request, its id in the answer, no query and no user unasked."""

import asyncio
import io
import json
import logging
import logging.config

import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from sidar.config.serve import LogConfig
from sidar.serve.http.models import ServedModels
from sidar.serve.http.observe.logs import LOGGER, JsonLines, Logged, note_answer, uvicorn_options
from sidar.serve.http.schemas import SearchResponse
from sidar.serve.request import SearchRequest

REQUEST = SearchRequest(query="secret towel", user_id="user-7", k=2)
RESPONSE = SearchResponse.model_construct(
    request_id="r1", model="m", bundle="b", returned=2, reason=None, hits=[]
)


async def searched(request):
    note_answer(REQUEST, RESPONSE)
    note_answer(REQUEST, RESPONSE.model_copy(update={"request_id": "r2"}))
    return JSONResponse({})


async def broken(request):
    raise RuntimeError("no disk")


@pytest.fixture
def lines():
    """What the logger writes, as JSON."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    LOGGER.removeHandler(handler)
    LOGGER.setLevel(logging.NOTSET)


def client(**config):
    app = Starlette(routes=[Route("/users/{user}", searched), Route("/broken", broken)])
    app.add_middleware(Logged, config=LogConfig(format="json", **config))
    return TestClient(app, raise_server_exceptions=False)


def test_a_request_is_one_line_without_what_is_private(lines):
    reply = client().get("/users/user-7?q=secret", headers={"X-Request-ID": "proxy-1.a:b"})
    assert reply.headers["X-Request-ID"] == "proxy-1.a:b"
    (line,) = lines()
    assert line.pop("time").endswith("+00:00")
    assert line.pop("ms") > 0
    answer = {"model": "m", "bundle": "b", "returned": 2, "reason": None}
    assert line == {
        "level": "info",
        "logger": "sidar.requests",
        "message": "request",
        "id": "proxy-1.a:b",
        "method": "GET",
        "route": "/users/{user}",
        "status": 200,
        "answers": [{"request_id": "r1", **answer}, {"request_id": "r2", **answer}],
    }


def test_queries_and_users_are_there_where_they_are_switched_on(lines):
    client(queries=True).get("/users/x")
    client(users=True).get("/users/x")
    first, second = (line["answers"][0] for line in lines())
    assert (first["query"], "user_id" in first) == ("secret towel", False)
    assert (second["user_id"], "query" in second) == ("user-7", False)


@pytest.mark.parametrize("given", ["a b", "x" * 129, 'a","level":"error', ""])
def test_an_id_that_is_none_is_replaced(lines, given):
    reply = client().get("/nowhere", headers={"X-Request-ID": given})
    (line,) = lines()
    assert line["id"] == reply.headers["X-Request-ID"] != given
    assert (line["status"], line["route"], "answers" in line) == (404, "none", False)


def test_a_failure_is_500_and_outside_of_a_request_nothing_is_noted(lines):
    assert client().get("/broken").status_code == 500
    assert [line["status"] for line in lines()] == [500]
    note_answer(REQUEST, RESPONSE)
    assert len(lines()) == 1


def test_a_trace_stays_on_its_line(capsys):
    assert uvicorn_options(LogConfig()) == {"log_level": "warning"}
    record = logging.LogRecord("x", logging.ERROR, "f", 1, "failed %s", ("here",), None)
    try:
        raise ValueError("of two\nlines")
    except ValueError as error:
        record.exc_info = (ValueError, error, error.__traceback__)
    line = json.loads(JsonLines().format(record))
    assert line["message"] == "failed here"
    assert line["error"].endswith("ValueError: of two\nlines")


def test_the_settings_are_those_of_logging():
    """uvicorn hands them to dictConfig; its loggers then write what ours writes."""
    settings = uvicorn_options(LogConfig(format="json"))["log_config"]
    configurator = logging.config.DictConfigurator(settings)
    formatter = configurator.configure_formatter(dict(settings["formatters"]["json"]))
    assert isinstance(formatter, JsonLines)
    assert settings["loggers"]["sidar.requests"]["level"] == "INFO"
    assert settings["loggers"]["uvicorn.access"]["level"] == "WARNING"


def test_a_bundle_that_cannot_be_loaded_is_in_the_log(caplog):
    def fail():
        raise ValueError("the bundle has no key")

    asyncio.run(ServedModels(fail).load())
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert record.getMessage() == "loading the models failed: ValueError: the bundle has no key"
