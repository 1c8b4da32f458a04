"""Spans of OpenTelemetry: of a request, its wait, its pass and its channels; off by default."""

import logging
import subprocess
import sys

import pytest
from fastapi.testclient import TestClient
from fused_shop import QUERY, SETTINGS
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import ValidationError
from shop import write_bundle, write_stages

from sidar import Retriever
from sidar.config.serve import ServeConfig
from sidar.serve import create_app
from sidar.serve.events import EventLog, open_events
from sidar.serve.http.observe.tracing import VARIABLES, Spans, spans_of

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def exporter():
    return InMemorySpanExporter()


def spans(exporter, content=False):
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Spans.of(provider, content)


def texts(made):
    return "\n".join(span.to_json() for span in made)


def test_a_search_is_a_tree_of_spans(fused_shop, exporter):
    shop = Retriever.load(fused_shop / "runs" / SETTINGS["name"] / "bundle")
    with TestClient(create_app(shop, spans=spans(exporter))) as client:
        asked = {"query": QUERY, "k": 3, "user_id": "somebody"}
        answer = client.post("/v1/search", json=asked, headers={"traceparent": PARENT}).json()
        assert client.post("/v1/search", json={"query": 1}).status_code == 422
        client.post("/v1/explain/zyzzogeton", json={"query": "quux"})
        made = exporter.get_finished_spans()
    by_name = {}
    for span in made:
        by_name.setdefault(span.name, span)
    request, passed = by_name["POST /v1/search"], by_name["pass"]
    assert request.attributes["http.response.status_code"] == 200
    assert format(request.context.trace_id, "032x") == PARENT.split("-")[1]
    assert format(request.parent.span_id, "016x") == PARENT.split("-")[2]
    for name in ("queue", "pass"):
        assert by_name[name].parent.span_id == request.context.span_id
    phases = ["prompt", "prefill", "decode", "cards"]
    channels = ["channel bm25", "channel dense", "channel memory"]
    for name in [*phases, *channels]:
        assert by_name[name].parent.span_id == passed.context.span_id
    # one after the other, each as long as the answer says
    ends = [passed.start_time, *(by_name[name].end_time for name in phases)]
    assert [by_name[name].start_time for name in phases] == ends[:-1]
    assert by_name["queue"].end_time == passed.start_time
    for name in phases:
        ms = (by_name[name].end_time - by_name[name].start_time) / 1e6
        assert ms == pytest.approx(answer["timing_ms"][name], abs=0.001)
    inside = sum(answer["timing_ms"][name.split()[1]] for name in channels)
    assert 0 < inside <= answer["timing_ms"]["cards"]
    assert passed.attributes["sidar.returned"] == 3
    assert passed.attributes["sidar.bundle"] == shop.hash
    statuses = [span.attributes.get("http.response.status_code") for span in made]
    assert [status for status in statuses if status] == [200, 422, 422]
    for private in (QUERY, "somebody", "zyzzogeton", "quux"):
        assert private not in texts(made)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return Retriever.load(write_bundle(write_stages(tmp_path_factory.mktemp("run"))))


def test_queries_and_pseudonyms_stand_in_spans_where_both_are_kept(plain, exporter, tmp_path):
    with pytest.raises(ValidationError, match=r"otel\.content needs answers_log"):
        ServeConfig(otel={"content": True})
    log = EventLog(open_events(tmp_path / "s.db"), tmp_path / "log")
    made = spans(exporter, content=True)
    with TestClient(create_app(plain, log=log, spans=made)) as client:
        client.post("/v1/search/batch", json={"requests": [{"query": "tent", "user_id": "ann"}]})
    found = {span.name: span for span in exporter.get_finished_spans()}
    assert found["pass"].attributes["sidar.query"] == "tent"
    assert found["pass"].attributes["enduser.pseudo.id"] == log.user("ann")
    assert "ann" not in texts(found.values()).replace(log.user("ann"), "")
    assert not any(name.startswith("channel") for name in found)


def test_an_error_is_named_without_its_words(plain, exporter):
    class Broken(Retriever):
        def answer(self, requests):
            raise RuntimeError(f"cannot answer {requests[0].query}")

    broken = Broken(plain.model, plain.index, plain.sids, plain.catalogue)
    app = create_app(broken, spans=spans(exporter))
    with TestClient(app, raise_server_exceptions=False) as client:
        assert client.post("/v1/search", json={"query": "zyzzogeton"}).status_code == 500
    (span,) = exporter.get_finished_spans()
    assert span.attributes["error.type"] == "RuntimeError"
    assert not span.status.is_ok
    assert "zyzzogeton" not in span.to_json()


def test_spans_are_made_where_the_config_or_the_environment_says_so(monkeypatch):
    for name in (*VARIABLES, "OTEL_SDK_DISABLED", "OTEL_SERVICE_NAME"):
        monkeypatch.delenv(name, raising=False)
    off = ServeConfig()
    on = ServeConfig(otel={"endpoint": "http://127.0.0.1:9/", "service": "shop"})
    assert spans_of(off) is None
    made = spans_of(on)
    assert made.provider.resource.attributes["service.name"] == "shop"
    (processor,) = made.provider._active_span_processor._span_processors
    assert processor.span_exporter._endpoint == "http://127.0.0.1:9/v1/traces"
    made.close()
    monkeypatch.setenv(VARIABLES[1], "http://127.0.0.1:9")
    made = spans_of(off)
    assert made.provider.resource.attributes["service.name"] == "sidar"
    made.close()
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert spans_of(on) is None


def test_without_the_extra_there_is_an_error_for_those_who_asked(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    on = ServeConfig(otel={"endpoint": "http://127.0.0.1:9"})
    with pytest.raises(ValueError, match=r"serve\.otel\.endpoint is set, but .*sidar\[otel\]"):
        spans_of(on)
    # a server that ran in this process has taken its log apart
    monkeypatch.setattr(logging.getLogger("uvicorn"), "propagate", True)
    # the variables may be set for every process of a machine
    monkeypatch.setenv(VARIABLES[0], "http://127.0.0.1:9")
    assert spans_of(ServeConfig()) is None
    assert "no spans are sent: OpenTelemetry is not installed" in caplog.text


def test_nothing_of_it_is_imported_where_it_is_off():
    program = (
        "import sys; import sidar.serve.http.app, sidar.serve.http.observe.tracing as t; "
        "from sidar.config.serve import ServeConfig; assert t.spans_of(ServeConfig()) is None; "
        "print([m for m in sys.modules if m.startswith('opentelemetry.sdk')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
