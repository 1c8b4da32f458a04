"""The routes of a server as values: what is sent, how the answer is read, whether it may be sent
again.

Both clients make the same calls; they differ in how they wait.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from pydantic import BaseModel

from sidar.serve.http.changes import BundleList, Changed, Erased, Event, Files, Item, Patch, Taken
from sidar.serve.http.schemas import Hit, Info, SearchResponse, WhyResponse
from sidar.serve.request import SearchOptions, SearchRequest

Answer = TypeVar("Answer")
Body = TypeVar("Body", bound=BaseModel)
#: Seconds that loading a bundle may take: every file of it is read and hashed.
LOADING = 600.0
#: Fields without which a hit is one of a request with ``fields``.
_WHOLE_HIT = frozenset(name for name, field in Hit.model_fields.items() if field.is_required())
#: A body as a value, or as JSON has it.
Fields = Mapping[str, Any]


@dataclass(frozen=True)
class Call(Generic[Answer]):
    """One request. ``repeatable``: sent twice, it does what it does sent once."""

    method: str
    path: str
    read: Callable[[Any], Answer]
    body: Any = None
    params: tuple[tuple[str, str], ...] = ()
    repeatable: bool = True
    seconds: float = 0.0  # the least timeout of a call that takes long

    @property
    def name(self) -> str:
        """The call as errors name it."""
        return f"{self.method} {self.path}"


class SearchWords(SearchOptions, total=False):
    """The keyword arguments of a search over HTTP; each is the :class:`SearchRequest` field of its
    name.
    """

    model: str | None


def search_request(
    query: str | SearchRequest, k: int, explain: bool, options: SearchWords
) -> SearchRequest:
    """Return the request that the arguments describe; ``ValueError`` where it is wrong, and for
    options beside a whole :class:`SearchRequest`.
    """
    if isinstance(query, SearchRequest):
        if options:
            raise ValueError(f"{', '.join(options)}: set it in the SearchRequest")
        return query
    fields: dict[str, Any] = {**options}
    return SearchRequest.of(query, k, explain=explain, **fields)


def search(request: SearchRequest) -> Call[SearchResponse]:
    """Return the call that searches."""
    return Call("POST", "/v1/search", _read_answer, _request_body(request))


def batch(requests: Sequence[SearchRequest]) -> Call[list[SearchResponse]]:
    """Return the call that makes several searches; answers come in the order of ``requests``."""
    body = {"requests": [_request_body(request) for request in requests]}

    def read(answer: Any) -> list[SearchResponse]:
        return [_read_answer(one) for one in answer["answers"]]

    return Call("POST", "/v1/search/batch", read, body)


def explain(item_id: str, request: SearchRequest) -> Call[WhyResponse]:
    """Return the call that asks why an item is, or is not, in an answer."""
    path = f"/v1/explain/{quote(item_id, safe='')}"
    return Call("POST", path, WhyResponse.model_validate, _request_body(request))


def info() -> Call[Info]:
    """Return the call that asks for models and example queries."""
    return Call("GET", "/v1/info", Info.model_validate)


def ready() -> Call[bool]:
    """Return the call that asks whether the models are loaded."""
    return Call("GET", "/readyz", lambda body: bool(body["status"] == "ready"))


def put_items(items: Sequence[Item | Fields]) -> Call[Changed]:
    """Return the call that adds or replaces items."""
    body = {"items": _bodies(Item, items)}
    return Call("PUT", "/v1/items", Changed.model_validate, body)


def patch_items(items: Sequence[Patch | Fields]) -> Call[Changed]:
    """Return the call that changes price, stock or picture."""
    body = {"items": _bodies(Patch, items)}
    return Call("PATCH", "/v1/items", Changed.model_validate, body)


def retire_items(item_ids: Sequence[str]) -> Call[Changed]:
    """Return the call that retires items."""
    params = tuple(("item_id", item_id) for item_id in item_ids)
    return Call("DELETE", "/v1/items", Changed.model_validate, params=params)


def send_events(events: Sequence[Event | Fields]) -> Call[Taken]:
    """Return the call that sends events; their ``event_id`` makes it repeatable."""
    body = {"events": _bodies(Event, events)}
    return Call("POST", "/v1/events", Taken.model_validate, body)


def write_event_files() -> Call[Files]:
    """Return the call that writes the files of the log."""
    return Call("POST", "/v1/events/files", Files.model_validate)


def erase_user(user_id: str) -> Call[Erased]:
    """Return the call that forgets a user."""
    return Call("DELETE", f"/v1/users/{quote(user_id, safe='')}", Erased.model_validate)


def bundles() -> Call[BundleList]:
    """Return the call that lists bundles."""
    return Call("GET", "/v1/bundles", BundleList.model_validate)


def load_bundle(name: str) -> Call[BundleList]:
    """Return the call that loads a bundle beside the active one.

    It is not made again by itself: a load that goes on would be made a second time.
    """
    path = f"/v1/bundles/{quote(name, safe='')}/load"
    return Call("POST", path, BundleList.model_validate, repeatable=False, seconds=LOADING)


def activate_bundle(name: str) -> Call[BundleList]:
    """Return the call that answers with a bundle; for the active one it changes nothing."""
    path = f"/v1/bundles/{quote(name, safe='')}/activate"
    return Call("POST", path, BundleList.model_validate, seconds=LOADING)


def roll_back() -> Call[BundleList]:
    """Return the call that takes the last exchange back; twice, it brings it back."""
    return Call("POST", "/v1/bundles/rollback", BundleList.model_validate, repeatable=False)


def _request_body(request: SearchRequest) -> dict[str, Any]:
    """Return a request as JSON; what is as the server has it by default is left out."""
    body = request.model_dump(mode="json", exclude_defaults=True)
    return {"query": request.query, **body}


def _bodies(kind: type[Body], values: Sequence[Body | Fields]) -> list[dict[str, Any]]:
    """Return values as JSON, checked; what was not set is left out, which a patch leaves alone."""
    checked = [value if isinstance(value, kind) else kind.model_validate(value) for value in values]
    return [value.model_dump(mode="json", exclude_unset=True) for value in checked]


def _read_answer(body: Any) -> SearchResponse:
    """Return an answer; a hit of a request with ``fields`` has those attributes only."""
    hits = []
    for hit in body["hits"]:
        if hit.keys() >= _WHOLE_HIT:
            hits.append(Hit.model_validate(hit))
        else:
            hits.append(Hit.model_construct(_fields_set=set(hit), **hit))
    return SearchResponse.model_validate({**body, "hits": hits})
