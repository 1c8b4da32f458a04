"""One search as a value: what the command line, HTTP and Python ask a retriever."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, TypedDict, Unpack

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    field_validator,
)
from pydantic.config import JsonDict
from pydantic_core import ErrorDetails, PydanticCustomError

from sidar.data.cleaning.normalise import fold_text
from sidar.filters import Filter, FilterError, read_filter

#: Characters of a query, and of a profile, that are read at all; the model then reads the first
#: ``max_prompt_tokens`` tokens.
MAX_QUERY = 4096
#: Fields of a hit, as :class:`sidar.serve.results.Result` has them.
HIT_FIELDS = (
    *("rank", "item_id", "title", "brand", "price", "image_url", "category", "score"),
    *("probability", "sid", "level_logp", "sid_text", "cosine", "count", "channels", "origins"),
)
#: Values of ``fuse`` that this version answers with.
FUSE = ("memory", "ranker", "none")
_NOT_SERVED_ERROR = "not_served"
#: The longest deadline, about 25 days: what a clock of the event loop can count.
MAX_TIMEOUT_MS = 2**31 - 1
#: Columns whose values one request counts at most.
MAX_FACETS = 20


class RequestError(ValueError):
    """A well-formed request asks for what is not here: the service answers 422."""


class SearchOptions(TypedDict, total=False):
    """The keyword arguments of a search; each is the :class:`SearchRequest` field of its name."""

    history: Sequence[str]
    profile: str
    user_id: str | None
    beam: int | None
    exact: bool | None
    rerank: bool | None
    fuse: str | None
    timeout_ms: int | None
    fields: Sequence[str] | None
    filter: Filter | Mapping[str, Any] | str | None
    facets: Sequence[str]


@dataclass(frozen=True)
class Limits:
    """The largest request that a service takes: characters of texts, ids of ``history``, ``k``,
    ``beam``.

    A caller in Python or at the shell has none: there a long query is cut.
    """

    query: int = 512
    k: int = 500
    history: int = 200
    profile: int = 2048
    user_id: int = 256
    beam: int = 1024
    model: int = 128

    def check(self, request: SearchRequest) -> None:
        """Raise :class:`RequestError` that names every field beyond its limit."""
        sizes = {
            "query": (len(request.query), " characters"),
            "k": (request.k, ""),
            "history": (len(request.history), " ids"),
            "profile": (len(request.profile), " characters"),
            "user_id": (len(request.user_id or ""), " characters"),
            "beam": (request.beam or 0, ""),
            "model": (len(request.model or ""), " characters"),
        }
        limits = asdict(self)
        problems = [
            f"{name}: {size:,}{unit} is above this server's limit of {limits[name]:,}"
            for name, (size, unit) in sizes.items()
            if size > limits[name]
        ]
        if problems:
            raise RequestError("; ".join(problems))


def _read_filter(value: Any) -> Filter:
    """Read a filter as JSON or as text; what is wrong with it is one line."""
    try:
        return read_filter(value)
    except FilterError as error:
        raise PydanticCustomError("filter", "{text}", {"text": str(error)}) from None


#: A filter as JSON, or as the line that compiles to it.
FilterField = Annotated[
    Filter,
    BeforeValidator(_read_filter, json_schema_input_type=Filter | str),
    PlainSerializer(Filter.to_json),
]


def _describe(schema: JsonDict) -> None:
    """Add examples, and the limits of a service, to the JSON Schema of a request."""
    shortest: JsonDict = {"query": "t towels kitchen", "k": 2}
    personal: JsonDict = {
        "query": "towel",
        "k": 10,
        "history": ["B00A12"],
        "profile": "age 30-44",
        "beam": 128,
        "explain": True,
    }
    filtered: JsonDict = {
        "query": "towel",
        "filter": {
            "must": [{"key": "price", "range": {"gte": 10, "lte": 50}}],
            "must_not": [{"key": "in_stock", "match": {"value": False}}],
        },
        "facets": ["brand"],
    }
    schema["examples"] = [shortest, personal, filtered]
    keyword = {"string": "maxLength", "array": "maxItems", "integer": "maximum"}
    properties: Any = schema["properties"]
    for name, limit in asdict(Limits()).items():
        # an optional field is "this type, or null"
        for option in properties[name].get("anyOf", [properties[name]]):
            if option["type"] in keyword:
                option[keyword[option["type"]]] = limit


class SearchRequest(BaseModel):
    """One search. Unknown fields are refused, because a misspelt option must not be ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra=_describe)

    query: str = Field(description="What the shopper typed; may be empty (recommendation).")
    k: int = Field(10, ge=1, description="Items wanted.")
    history: tuple[str, ...] = Field(
        (),
        description=(
            "Ids of items the user touched before, oldest first. Unknown ones are reported."
        ),
    )
    profile: str = Field("", description="What is known of the user, as text.")
    user_id: str | None = Field(
        None,
        description="For the caller's own logs; ranking does not read it and it is not stored.",
    )
    beam: int | None = Field(None, ge=1, description="Beams; default: the model's. Raised to k.")
    exact: bool | None = Field(
        None,
        description=(
            "The true top by best-first search, or a beam; default: as the bundle was made."
        ),
    )
    rerank: bool | None = Field(
        None,
        description=(
            "Order what the beam reaches by log π + w · cosine, or not; default: as the "
            "bundle was made."
        ),
    )
    fuse: Literal["none", "memory", "ranker"] | None = Field(
        None,
        description=(
            "memory = what was chosen for the query, smoothed with all channels; ranker = the "
            "order of the learned ranker; default: the bundle's."
        ),
    )
    filter: FilterField | None = Field(
        None,
        description=(
            "Only items that it allows are returned: conditions on columns and attributes as "
            "JSON, or in one line such as `price 10 TO 50 AND NOT in_stock = false`."
        ),
    )
    facets: tuple[str, ...] = Field(
        (),
        max_length=MAX_FACETS,
        description="Columns whose values are counted among the items that the filter allows.",
    )
    explain: bool = Field(False, description="Also return the beams level by level.")
    timeout_ms: int | None = Field(
        None,
        ge=1,
        le=MAX_TIMEOUT_MS,
        description=(
            "Deadline: after so many milliseconds the answer comes without hits, its reason "
            "`deadline`. Default: none."
        ),
    )
    fields: tuple[str, ...] | None = Field(
        None,
        description=(
            "Fields of a hit that the answer shall have, e.g. item_id and score; default: all."
        ),
    )
    model: str | None = Field(None, description="Label of the model; default: the first.")

    @field_validator("fuse", mode="before")
    @classmethod
    def _refuse_unserved_fusion(cls, value: Any) -> Any:
        if isinstance(value, str) and value not in FUSE:
            served = ", ".join(map(repr, FUSE[:-1])) + f" or {FUSE[-1]!r}"
            raise PydanticCustomError(
                _NOT_SERVED_ERROR,
                "{text}",
                {"text": f"{value!r} is not served; this version answers with {served}"},
            )
        return value

    @field_validator("fields")
    @classmethod
    def _refuse_unknown_fields(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        unknown = [name for name in value or () if name not in HIT_FIELDS]
        if unknown:
            raise PydanticCustomError(
                "no_field",
                "{text}",
                {"text": f"a hit has no {unknown[0]!r}; its fields are {', '.join(HIT_FIELDS)}"},
            )
        return value

    @field_validator("query", "profile", "history", "user_id", "model", "facets")
    @classmethod
    def _refuse_lone_surrogates(cls, value: Any) -> Any:
        """JSON can escape half a character; no answer could repeat it."""
        for text in (value,) if isinstance(value, str) else value or ():
            if text != _encodable(text):
                raise PydanticCustomError("not_unicode", "the text is no valid Unicode")
        return value

    @property
    def says_nothing(self) -> bool:
        """Whether there is neither a query nor a user to read."""
        return not (readable(self.query).strip() or readable(self.profile).strip() or self.history)

    @classmethod
    def of(
        cls, query: str, k: int = 10, *, explain: bool = False, **options: Unpack[SearchOptions]
    ) -> SearchRequest:
        """Return the request of a call in Python; ``ValueError`` of one line where it is wrong.

        Lone surrogates of the texts are replaced, which only a caller in Python can send.
        """
        fields: dict[str, Any] = {**options}
        history = fields.get("history", ())
        if not isinstance(history, str):
            history = tuple(_encodable(item_id) for item_id in history)
        fields["history"] = history
        fields["profile"] = _encodable(fields.get("profile", ""))
        try:
            return cls(query=_encodable(query), k=k, explain=explain, **fields)
        except ValidationError as error:
            raise ValueError(in_words(error.errors())) from None


def in_words(problems: Sequence[ErrorDetails]) -> str:
    """Return what is wrong with a request in one line, the field before each problem."""
    lines = []
    for problem in problems:
        where = ".".join(str(part) for part in problem["loc"] if part != "body")
        if not where and problem["type"] != _NOT_SERVED_ERROR:
            where = "body"
        message = problem["msg"]
        if problem["type"] == "greater_than_equal":
            message += f", got {where}={problem['input']}"
        lines.append(f"{where}: {message}" if where else message)
    return "; ".join(lines)


def readable(text: str) -> str:
    """Return user text as the model reads it, folded as the log's: at most :data:`MAX_QUERY`
    characters.
    """
    return fold_text(_encodable(text[:MAX_QUERY]))


def _encodable(text: Any) -> Any:
    """Replace lone surrogates; what is no text is left for the validation to refuse."""
    return text.encode("utf-8", "replace").decode("utf-8") if isinstance(text, str) else text
