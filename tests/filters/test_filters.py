"""Request filters: what a tree allows, against a loop over items; its text; what is refused."""

import json
from datetime import UTC, datetime

import jsonschema_rs
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_filters import holds

from sidar.data.catalogue import found
from sidar.filters import Filter, FilterError, Masks, facet, read_filter, to_text
from sidar.filters.cache import ByteCache
from sidar.types import CATALOGUE_SCHEMA

BRANDS = ["Lenovo", "HP", None, ""]
PATHS = [["Home", "Kitchen"], ["Home"], ["Tools"], [], None]
RAMS = [8, 16, "16 GB", None, [8, 32], True, {"of": 3}]
DATES = ["2024-01-31", "2024-06-01T12:00:00+02:00", "soon", None]
TAGS = [["new", "sale"], ["sale"], [], [None], "sale"]


def catalogue(n=60):
    """Items of few values, nulls and lists among them; every third has no ``ram`` at all."""
    rng = np.random.default_rng(0)

    def pick(values):
        return values[rng.integers(len(values))]

    items = []
    for row in range(n):
        facts = {"released": pick(DATES), "tags": pick(TAGS), "screen size": row % 5}
        if row % 3:
            facts["ram"] = pick(RAMS)
        items.append(
            {
                "item_id": f"P{row}",
                "title": f"Item {row % 7}",
                "category": pick(PATHS),
                "brand": pick(BRANDS),
                "price": pick([None, 9.5, 10.0, 50.0, 99.0]),
                "in_stock": pick([True, False, None]),
                "created": pick([None, datetime(2024, 1, 1 + row % 28, tzinfo=UTC)]),
                "attributes": None if row % 11 == 0 else json.dumps(facts),
                "alive": True,
            }
        )
    return found(pa.Table.from_pylist(items, CATALOGUE_SCHEMA))


CATALOGUE = catalogue()
ITEMS = CATALOGUE.table.to_pylist()
MASKS = Masks(CATALOGUE)
TEXTS = {
    "brand": ["Lenovo", "HP", "Acme"],
    "title": ["Item 1", 'a "quoted" one'],
    "category": ["Home", "Tools"],
    "attributes.tags": ["sale", "new"],
    "attributes.ram": ["16 GB"],
}
NUMBERS = {"price": [9.5, 10, 50.0], "attributes.ram": [8, 16], "attributes.screen size": [0, 3]}
KEYS = [*TEXTS, *NUMBERS, "in_stock", "created", "item_id"]


@st.composite
def conditions(draw):
    kind = draw(
        st.sampled_from(["value", "any", "except", "prefix", "range", "time", "null", "id"])
    )
    if kind == "null":
        name = draw(st.sampled_from(["is_null", "is_empty"]))
        return {name: {"key": draw(st.sampled_from(KEYS))}}
    if kind == "id":
        return {"has_id": draw(st.lists(st.sampled_from(["P1", "P2", "P59", "no"]), max_size=3))}
    if kind == "prefix":
        path = draw(st.sampled_from([["Home"], ["Home", "Kitchen"], ["Tools"], ["Garden"]]))
        return {"key": "category", "match": {"prefix": path}}
    if kind in ("range", "time"):
        low, high = draw(st.sampled_from(["gt", "gte"])), draw(st.sampled_from(["lt", "lte"]))
        names = draw(st.sampled_from([[low], [high], [low, high]]))
        if kind == "range":
            key, bound = draw(st.sampled_from([*NUMBERS])), st.sampled_from([8, 9.5, 10, 50, 99])
            return {"key": key, "range": {name: draw(bound) for name in names}}
        key = draw(st.sampled_from(["created", "attributes.released"]))
        bound = st.sampled_from(["2024-01-10", "2024-01-31T00:00:00Z", "2024-06-01T10:00:00"])
        return {"key": key, "datetime_range": {name: draw(bound) for name in names}}
    values = {**TEXTS, **NUMBERS, "in_stock": [True, False]}
    key = draw(st.sampled_from([*values]))
    if kind == "value":
        return {"key": key, "match": {"value": draw(st.sampled_from(values[key]))}}
    return {"key": key, "match": {kind: draw(st.lists(st.sampled_from(values[key]), max_size=2))}}


def filters(node):
    some = st.lists(node, max_size=2)
    group = st.lists(node, min_size=1, max_size=3).flatmap(
        lambda inside: st.fixed_dictionaries(
            {"conditions": st.just(inside), "min_count": st.integers(1, len(inside))}
        )
    )
    return st.fixed_dictionaries(
        {}, optional={"must": some, "should": some, "must_not": some, "min_should": group}
    )


TREES = st.recursive(conditions(), filters, max_leaves=8).map(
    lambda node: (
        node
        if not node or {"must", "should", "must_not", "min_should"} & set(node)
        else {"must": [node]}
    )
)


SCHEMA = jsonschema_rs.validator_for(Filter.model_json_schema())


@settings(deadline=None, max_examples=80)
@given(TREES)
def test_a_tree_that_is_taken_is_one_by_the_schema_that_clients_see(tree):
    read_filter(tree)
    assert SCHEMA.is_valid(tree)


@pytest.mark.parametrize(
    ("tree", "valid"),
    [
        ({"should": [{}, {}]}, True),  # empty filters allow all
        ({"must": [{"near": {"place": "Oslo"}}]}, True),  # a plug-in's field
        ({"must": [{"match": {"value": 1}}]}, False),  # no key
        ({"must": [{"mus": [], "must": []}]}, False),
        ({"must": [5]}, False),
    ],
)
def test_the_schemas_of_nodes_exclude_each_other(tree, valid):
    assert SCHEMA.is_valid(tree) is valid


@settings(deadline=None, max_examples=80)
@given(TREES)
def test_a_tree_allows_what_a_loop_over_the_items_does_and_so_does_its_text(tree):
    wanted = read_filter(tree)
    allowed = MASKS.rows(wanted)
    assert allowed.tolist() == [holds(tree, item) for item in ITEMS]
    text = to_text(wanted)
    again = read_filter(text)
    assert MASKS.rows(again).tolist() == allowed.tolist(), text
    assert to_text(again) == text
    assert read_filter(wanted.to_json()) == wanted


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        (
            'price 10 TO 50 AND brand IN ["Lenovo", "HP"] AND NOT in_stock = false',
            {
                "must": [
                    {"key": "price", "range": {"gte": 10, "lte": 50}},
                    {"key": "brand", "match": {"any": ["Lenovo", "HP"]}},
                ],
                "must_not": [{"key": "in_stock", "match": {"value": False}}],
            },
        ),
        (
            "a = 1 or b != x and c is not null",
            {
                "should": [
                    {"key": "a", "match": {"value": 1}},
                    {
                        "must": [{"key": "b", "match": {"except": ["x"]}}],
                    }
                    | {
                        "must": [
                            {"key": "b", "match": {"except": ["x"]}},
                            {"must_not": [{"is_null": {"key": "c"}}]},
                        ]
                    },
                ]
            },
        ),
        (
            "created >= 2026-01-31 AND price {1 TO 2.5]",
            {
                "must": [
                    {"key": "created", "datetime_range": {"gte": "2026-01-31T00:00:00"}},
                    {"key": "price", "range": {"gt": 1, "lte": 2.5}},
                ]
            },
        ),
        (
            "category UNDER [Home, Kitchen] AND AT LEAST 2 OF (a < 1, b >= -2e3, c IS EMPTY)",
            {
                "must": [
                    {"key": "category", "match": {"prefix": ["Home", "Kitchen"]}},
                    {
                        "min_should": {
                            "conditions": [
                                {"key": "a", "range": {"lt": 1}},
                                {"key": "b", "range": {"gte": -2000}},
                                {"is_empty": {"key": "c"}},
                            ],
                            "min_count": 2,
                        }
                    },
                ]
            },
        ),
        (
            '`attributes.screen size` NOT IN [1, 2] OR HAS_ID ["P1"] OR {"is_null": {"key": "b"}}',
            {
                "should": [
                    {"key": "attributes.screen size", "match": {"except": [1, 2]}},
                    {"has_id": ["P1"]},
                    {"is_null": {"key": "b"}},
                ]
            },
        ),
        ("  ", {}),
        ("*", {}),
    ],
)
def test_a_line_compiles_to_the_tree(text, tree):
    assert read_filter(text) == read_filter(tree)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("price 10 TO", "column 12: want a value, got the end"),
        ("a b", "column 3: want a comparison, IN, UNDER, IS or a range after a, got 'b'"),
        ('brand IN ["a"', "column 14: want ']', got the end"),
        ("(price = 1", r"column 11: want '\)', got the end"),
        ("price = 1 price = 2", "column 11: want AND, OR or the end, got 'price'"),
        ("price ~ 3", "column 7: cannot read '~'"),
        ('brand = "a', "column 9: cannot read a text that does not end"),
        ("price 1 TO x", "column 7: want two numbers or two dates as bounds"),
        ("created > someday", "column 9: Input should be a valid datetime"),
        ("AT LEAST 3 OF (a = 1, b = 2)", "column 10: want a number from 1 to 2"),
        ("a NOT = 1", "column 7: want IN after NOT, got '='"),
        ("a IS 1", "column 6: want NULL or EMPTY after IS, got '1'"),
        ("AND a = 1", "column 1: want the name of a column, got 'AND'"),
        ('{"key": "a"', "column 1: no JSON object of a condition"),
        (
            'b = 1 AND {"key": "a", "mach": {}}',
            "column 11: condition 'mach' is not one of .* match",
        ),
        ("(" * 40 + "a = 1" + ")" * 40, "column 17: the filter is nested more than 16 deep"),
        ("a = 1 OR " * 300 + "a = 1", "the filter has 301 conditions; at most 256"),
        ("a" * 20_000, "the filter has 20,000 characters; at most 16,384"),
    ],
)
def test_an_error_of_a_line_points_at_its_column(text, says):
    with pytest.raises(FilterError, match=says):
        read_filter(text)


def nested(depth):
    tree = {"must": []}
    for _ in range(depth):
        tree = {"must": [tree]}
    return tree


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        ({"mus": []}, "mus: Extra inputs are not permitted"),
        ({"must": [{"key": "a", "range": {}}]}, r"must\[0\]\.range: give at least one of gt, gte"),
        (
            {"should": [{"must": [{"key": "a", "range": {"gt": 1, "gte": 2}}]}]},
            r"should\[0\]\.must\[0\]\.range: give gt or gte, not both",
        ),
        ({"must": [{"key": "a", "match": {"value": 1, "any": [2]}}]}, "give one of value, any"),
        ({"must": [{"key": "a", "range": {"gt": "x"}}]}, r"range\.gt: Input should be a valid num"),
        ({"must": [{"key": "a", "datetime_range": {"gt": 3}}]}, "want an ISO 8601 date or time"),
        ({"must": [{"key": "a", "mach": {}}]}, "condition 'mach' is not one of .* mean match"),
        ({"must": [3]}, r"must\[0\]: want a condition such as"),
        ({"min_should": {"conditions": [{"has_id": []}], "min_count": 2}}, "can never reach"),
        (nested(16), "the filter is nested 17 deep; at most 16"),
        (nested(5_000), "the filter is nested more than 16 deep"),
        ({"must": [{"has_id": ["x"] * 10_001}]}, "the filter is too large"),
        (3, "want a JSON object or a text, got int"),
    ],
)
def test_an_error_of_a_tree_names_its_place(tree, says):
    with pytest.raises(FilterError, match=says):
        read_filter(tree)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "prise = 3",
            r"must\[0\]: there is no 'prise'; did you mean price\? Columns are item_id, ",
        ),
        ("attributes.rum = 3", r"did you mean attributes.ram or .* and attributes such as"),
        ("ram = 3", r"there is no 'ram'; did you mean attributes.ram\?"),
        ("alive = true", "there is no 'alive'"),
        ('price = "x"', "price holds numbers, not text; got 'x'"),
        ("brand > 10", "brand holds text, not numbers; match and datetime_range read other values"),
        ("brand > 2026-01-01", "brand holds text, not times"),
        ("created > 5", "created holds times, not numbers"),
        ("created = 5", "created holds times, not numbers; datetime_range reads times"),
        ("brand UNDER Home", "brand holds no paths"),
        (
            "NOT (in_stock = true AND in_stock = yes)",
            r"must_not\[0\]\.must\[1\]: in_stock holds bool",
        ),
    ],
)
def test_what_the_catalogue_does_not_have_is_named(text, says):
    with pytest.raises(FilterError, match=says):
        MASKS.rows(read_filter(text))


def test_a_catalogue_without_attributes_says_so():
    bare = CATALOGUE.table.set_column(9, "attributes", pa.nulls(len(CATALOGUE), pa.string()))
    with pytest.raises(FilterError, match="this catalogue keeps no attributes"):
        Masks(found(bare)).rows(read_filter("attributes.ram = 8"))


def test_null_fails_a_condition_and_passes_its_negation():
    null = np.array([item["price"] is None for item in ITEMS])
    assert not MASKS.rows(read_filter("price >= 0"))[null].any()
    assert MASKS.rows(read_filter("NOT price >= 0")).tolist() == null.tolist()
    assert not MASKS.rows(read_filter("price != 10"))[null].any()
    assert MASKS.rows(Filter()).all()


def test_facets_count_allowed_items_by_value():
    allowed = MASKS.rows(read_filter("price >= 10"))
    items = [item for item, is_allowed in zip(ITEMS, allowed, strict=True) if is_allowed]
    counts = {count.value: count.count for count in facet(MASKS.columns.column("brand"), allowed)}
    for brand in ("Lenovo", "HP", ""):
        assert counts[brand] == sum(item["brand"] == brand for item in items)
    tags = facet(MASKS.columns.column("attributes.tags"), allowed, most=1)
    facts = [json.loads(item["attributes"] or "{}").get("tags") or [] for item in items]
    assert [(tags[0].value, tags[0].count)] == [
        ("sale", sum("sale" in of_item for of_item in facts))
    ]
    prices = facet(MASKS.columns.column("price"), allowed)
    assert {price.value for price in prices} == {10.0, 50.0, 99.0}
    assert sum(price.count for price in prices) == len(items)
    created = facet(MASKS.columns.column("created"), allowed)
    assert all(count.value.startswith("2024-01-") for count in created)


def test_what_a_condition_holds_for_is_kept_and_cannot_be_changed(monkeypatch):
    masks = Masks(CATALOGUE)
    assert len(masks._kept) == 0  # nothing is read before the first filter
    masks.rows(read_filter("price > 10"))
    monkeypatch.setattr(masks.columns, "column", lambda key: pytest.fail("read again"))
    masks.rows(read_filter("price > 10"))
    (mask, _), *_ = masks._kept._values.values()
    with pytest.raises(ValueError, match="read-only"):
        mask[0] = True


def test_a_cache_keeps_to_its_bytes_and_drops_the_oldest():
    cache = ByteCache(10)
    made = []

    def get(key, size=4):
        return cache.get(key, lambda: made.append(key) or key, lambda _: size)

    for key in "aba":
        assert get(key) == key
    get("c")  # b is the one that was used longest ago
    get("a")
    get("b")
    assert made == ["a", "b", "c", "b"]
    assert get("large", 11) == "large"
    assert cache.nbytes <= 10
