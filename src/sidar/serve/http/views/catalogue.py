"""The routes that the page looks into a catalogue with: columns and values for its filter line,
counts, the tree of Semantic IDs, items by words, and the report of the evaluation.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import anyio
import anyio.to_thread
from fastapi import APIRouter, Depends, HTTPException, Query
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sidar.serve.browse.views import MAX_TEXT, BrowseRequest
from sidar.serve.http.access import Access
from sidar.serve.http.models import ServedModels
from sidar.serve.http.responses import LIMITED, UNREADY, WRONG
from sidar.serve.http.schemas import Facet, Problem
from sidar.serve.request import MAX_FACETS, FilterField, RequestError, in_words
from sidar.serve.results import SearchAnswer

#: Entries of one answer.
MOST = 200
#: A report brings its own styles and pictures; nothing in it runs, and only this page frames it.
REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'self'; sandbox"
)
Label = Annotated[str | None, Query(max_length=128, description="Label; default: the first model.")]
FilterText = Annotated[
    str, Query(max_length=16_384, description="Only items that it allows, in one line.")
]
Entries = Annotated[int, Query(ge=1, le=MOST, description="Entries wanted.")]
Offset = Annotated[int, Query(ge=0, le=2**31, description="Entries that are left out before.")]
Text = Annotated[str, Query(max_length=MAX_TEXT)]


class Columns(BaseModel):
    """The columns that a filter may name."""

    class Column(BaseModel):
        """One column, as a sample of the items shows it."""

        key: str
        kinds: list[str] = Field(description="Of text, numbers, booleans, times, lists, objects.")
        coverage: float = Field(description="Share of the items that have a value.")
        values: int = Field(description="Different values in the sample.")
        low: float | None = Field(description="Of numbers.")
        high: float | None

    columns: list[Column]


class Values(BaseModel):
    """Values of a column with the number of items that have them."""

    key: str
    values: list[Facet]


class FacetsRequest(BaseModel):
    """Counts of columns' values among the items that a filter allows; nothing is searched."""

    model_config = ConfigDict(extra="forbid")

    filter: FilterField | None = None
    facets: tuple[str, ...] = Field((), max_length=MAX_FACETS)
    model: str | None = Field(None, max_length=128)


class Facets(BaseModel):
    """How many items a filter allows, and the counts among them."""

    allowed: int
    facets: dict[str, list[Facet]]


class Item(BaseModel):
    """An item as a list shows it."""

    item_id: str
    title: str
    brand: str
    price: float | None
    image_url: str
    category: list[str]
    sid: list[int]
    sid_text: str


class Items(BaseModel):
    """Items that fit a text."""

    items: list[Item]


class Shelf(BaseModel):
    """A place in the tree of Semantic IDs, with what lies below it."""

    class Bucket(BaseModel):
        """A prefix and what lies below it."""

        code: int = Field(description="Its last code; -1 for the root.")
        text: str
        items: int
        sids: int
        label: str = Field(description="Deepest category that holds at least half of its items.")
        share: float
        example: str
        is_sid: bool = Field(description="Whether it is the Semantic ID of items itself.")

    text: str
    depth: int
    n_levels: int
    codebook_size: int = Field(description="Codes of the next level; 0 at the last.")
    items: int
    sids: int
    label: str
    path: list[Bucket] = Field(description="The prefixes that lead here, the root first.")
    buckets: list[Bucket] = Field(description="Those of the page asked for.")
    n_buckets: int
    here: list[Item] = Field(description="Items whose Semantic ID ends here, of the page.")
    n_here: int


def catalogue_routes(served: ServedModels, access: Access) -> APIRouter:
    """Return the routes that look into the catalogue of a model."""
    router = APIRouter(
        prefix="/v1/catalogue",
        dependencies=[Depends(access.needs("read"))],
        responses=LIMITED | UNREADY | WRONG,
    )

    async def look(model: str | None, **fields: Any) -> SearchAnswer:
        label = served.label_of(model)
        try:
            request = BrowseRequest(**fields)
        except ValidationError as error:
            raise RequestError(in_words(error.errors())) from None
        return (await served.answer(label, request)).answer

    @router.get("/columns", summary="Columns that a filter may name")
    async def columns(model: Label = None) -> Columns:
        """As a sample of at most 5,000 items shows them."""
        answer = await look(model, view="columns")
        assert answer.view is not None
        return Columns.model_validate({"columns": [asdict(one) for one in answer.view.columns]})

    @router.get("/values", summary="Values of a column")
    async def values(
        key: Text, text: Text = "", filter: FilterText = "", k: Entries = 20, model: Label = None
    ) -> Values:
        """Those that `text` occurs in; those that begin with it first, then the most frequent."""
        answer = await look(model, view="values", key=key, text=text, filter=filter or None, k=k)
        assert answer.view is not None
        return Values(key=key, values=[Facet(**asdict(one)) for one in answer.view.values])

    @router.post("/facets", summary="Counts of values")
    async def facets(request: FacetsRequest) -> Facets:
        """Among the items that `filter` allows; nothing is searched."""
        fields = {"filter": request.filter, "facets": request.facets}
        answer = await look(request.model, view="facets", **fields)
        counts = {
            key: [Facet(**asdict(one)) for one in some] for key, some in answer.facets.items()
        }
        return Facets(allowed=answer.allowed or 0, facets=counts)

    @router.get("/items", summary="Items by id or words of the title")
    async def items(
        text: Text, filter: FilterText = "", k: Entries = 10, model: Label = None
    ) -> Items:
        """The item of this id, then those whose titles hold every word."""
        answer = await look(model, view="items", text=text, filter=filter or None, k=k)
        assert answer.view is not None
        return Items.model_validate({"items": [asdict(item) for item in answer.view.items]})

    @router.get("/shelf", summary="The tree of Semantic IDs")
    async def shelf(
        prefix: Annotated[str, Query(max_length=256, description="Such as 12-7.")] = "",
        order: Annotated[Literal["code", "size"], Query()] = "code",
        filter: FilterText = "",
        offset: Offset = 0,
        k: Entries = 50,
        model: Label = None,
    ) -> Shelf:
        """What lies below a prefix, of the items that `filter` allows."""
        answer = await look(
            model,
            view="shelf",
            prefix=_codes(prefix),
            order=order,
            filter=filter or None,
            offset=offset,
            k=k,
        )
        assert answer.view is not None
        assert answer.view.shelf is not None
        return Shelf.model_validate(asdict(answer.view.shelf))

    return router


def report_routes(served: ServedModels, access: Access) -> APIRouter:
    """Return the route of the evaluation report of the run that made a bundle."""
    router = APIRouter(dependencies=[Depends(access.needs("read"))], responses=LIMITED | UNREADY)

    @router.get(
        "/v1/report",
        response_class=Response,
        responses={404: {"model": Problem, "description": "The run left no report."}},
        summary="The evaluation report of a model's run, as HTML",
    )
    async def report(model: Label = None) -> Response:
        """The page that `sidar evaluate` wrote beside the bundle, where it scored this model."""
        info = served.engines[served.label_of(model)].info
        if not info.report:
            raise HTTPException(404, "the run of this bundle left no evaluation report")
        text = await anyio.to_thread.run_sync(_read, Path(info.report))
        headers = {"Content-Security-Policy": REPORT_POLICY, "X-Content-Type-Options": "nosniff"}
        return Response(text, media_type="text/html", headers=headers)

    return router


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        raise HTTPException(404, "the evaluation report of this bundle is gone") from None


def _codes(prefix: str) -> tuple[int, ...]:
    """Read ``12-7``; ``RequestError`` where it is no prefix."""
    parts = prefix.split("-") if prefix else []
    # nine digits: more than any codebook has, and less than an array's integer holds
    if not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        raise RequestError(f"prefix: want codes such as 12-7, got {prefix[:40]!r}")
    return tuple(int(part) for part in parts)
