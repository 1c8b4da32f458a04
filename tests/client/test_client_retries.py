"""When a call is made again: hand-worked pauses, and servers that fail before they answer."""

import inspect
from datetime import UTC, datetime

import httpx
import pytest

from sidar.client import ApiError, AsyncClient, Client, Retries, UnreachableError
from sidar.client.retries import retry_after

NOW = datetime(2026, 11, 28, 12, 0, 0, tzinfo=UTC)
#: Pauses are as long as they can be; a test that sleeps uses tiny ones.
QUICK = Retries(first=0.001, draw=lambda: 1.0)
STATES = {"active": "sft", "previous": None, "bundles": []}


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        ("Sat, 28 Nov 2026 12:00:30 GMT", 30.0),
        ("Sat, 28 Nov 2026 11:00:00 GMT", 0.0),
        ("soon", None),
        ("-3", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value, seconds):
    assert retry_after(value, NOW) == seconds


def test_pauses_double_up_to_a_limit_and_the_server_has_the_last_word():
    retries = Retries(attempts=6, first=0.5, most=3.0, seconds=20.0, draw=lambda: 0.5)
    assert [retries.pause(n, 0.0, None) for n in range(1, 6)] == [0.25, 0.5, 1.0, 1.5, 1.5]
    assert retries.pause(6, 0.0, None) is None
    assert retries.pause(1, 0.0, 4.0) == 4.25
    assert retries.pause(1, 15.9, 4.0) is None  # would end after 20.15 seconds
    with pytest.raises(ValueError, match="at least once"):
        Retries(attempts=0)


class Flaky:
    """Answers with the given replies in turn, an exception among them is raised."""

    def __init__(self, *replies):
        self.replies, self.requests = list(replies), []

    def __call__(self, request):
        self.requests.append(request)
        reply = self.replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply


def later(status=503, **headers):
    return httpx.Response(status, json={"error": "too many requests wait"}, headers=headers)


def client(server, retries=QUICK, **more):
    transport = httpx.MockTransport(server)
    return Client("http://shop.test/prefix", "secret", transport=transport, retries=retries, **more)


def test_a_call_is_made_again_until_it_is_answered():
    server = Flaky(
        httpx.ConnectError("refused"),
        later(503),
        later(429, **{"Retry-After": "0"}),
        httpx.Response(200, json={"rows": 3}),
    )
    assert client(server).erase_user("a/b ü").rows == 3
    assert len(server.requests) == 4
    last = server.requests[-1]
    assert last.headers["Authorization"] == "Bearer secret"
    assert last.url.raw_path == b"/prefix/v1/users/a%2Fb%20%C3%BC"


def test_a_call_that_counts_twice_is_made_once():
    server = Flaky(httpx.ReadTimeout("slow"), later(), httpx.Response(200, json=STATES))
    shop = client(server)
    with pytest.raises(UnreachableError, match="POST /v1/bundles/rollback: no answer: slow"):
        shop.roll_back()
    with pytest.raises(ApiError, match="503: too many requests wait"):
        shop.load_bundle("monday")
    assert len(server.requests) == 2
    assert shop.activate_bundle("monday").active == "sft"


def test_what_cannot_help_is_not_repeated():
    wrong = httpx.Response(422, json={"error": "k: Input should be at least 1"})
    server = Flaky(wrong, httpx.Response(200, text="<html>proxy</html>"))
    shop = client(server)
    with pytest.raises(ApiError, match="at least 1") as raised:
        shop.search("towel")
    assert raised.value.status == 422
    with pytest.raises(ApiError, match="no answer of a Sidar server"):
        shop.info()
    assert len(server.requests) == 2


def test_a_server_that_asks_for_longer_than_there_is_gets_no_second_call():
    server = Flaky(later(503, **{"Retry-After": "60"}))
    with pytest.raises(ApiError):
        client(server).info()
    assert len(server.requests) == 1


def test_attempts_end_with_the_error_of_the_last():
    server = Flaky(*[httpx.ConnectError("refused")] * 4)
    with pytest.raises(UnreachableError, match=r"asked 4 times\): refused"):
        client(server).info()
    server = Flaky(httpx.ConnectError("refused"), later(), httpx.Response(200, json={}))
    shop = client(server)
    assert [shop.ready(), shop.ready(), shop.ready()] == [False, False, False]


def test_what_was_not_set_is_not_sent():
    server = Flaky(*[httpx.Response(200, json={"items": 1, "catalogue_version": 1})] * 2)
    shop = client(server)
    shop.patch_items([{"item_id": "a", "price": None}])
    shop.retire_items(["a", "b&c"])
    assert server.requests[0].content == b'{"items":[{"item_id":"a","price":null}]}'
    assert server.requests[1].url.query == b"item_id=a&item_id=b%26c"
    with pytest.raises(ValueError, match="title"):
        shop.put_items([{"item_id": "a"}])
    with pytest.raises(ValueError, match="k"):
        shop.search("towel", k=0)


def test_the_key_is_in_no_text_and_an_address_is_one():
    shop = client(Flaky())
    assert "secret" not in repr(shop) + repr(shop.__dict__)
    with pytest.raises(ValueError, match="no address"):
        Client("localhost:8000")


def test_both_clients_have_the_same_methods():
    def methods(kind):
        return {
            name: str(inspect.signature(method))
            for name, method in inspect.getmembers(kind, inspect.isfunction)
            if not name.startswith("_")
        }

    assert methods(Client) == methods(AsyncClient)
