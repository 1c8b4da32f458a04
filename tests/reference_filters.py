"""The slow twin of sidar.filters: whether a filter's JSON holds for one item, written from the
contract.
"""

import json
from datetime import UTC, datetime


def value_of(item, key):
    if key.startswith("attributes."):
        return json.loads(item["attributes"] or "{}").get(key.removeprefix("attributes."))
    return item[key]


def elements(value):
    """The scalars of a value: its elements, or itself; a null is none."""
    inside = value if isinstance(value, list) else [value]
    return [one for one in inside if one is not None and not isinstance(one, dict)]


def same(one, other):
    """Equal, and true is not 1."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def moment(value):
    if isinstance(value, datetime):
        return value
    try:
        read = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return read if read.tzinfo else read.replace(tzinfo=UTC)


def inside(value, bounds):
    tests = {
        "gt": lambda a, b: a > b,
        "gte": lambda a, b: a >= b,
        "lt": lambda a, b: a < b,
        "lte": lambda a, b: a <= b,
    }
    return value is not None and all(tests[name](value, bound) for name, bound in bounds.items())


def condition_holds(condition, item):
    if "has_id" in condition:
        return item["item_id"] in condition["has_id"]
    if "is_null" in condition:
        return value_of(item, condition["is_null"]["key"]) is None
    if "is_empty" in condition:
        value = value_of(item, condition["is_empty"]["key"])
        return value in (None, "", []) or value == [None]
    value = value_of(item, condition["key"])
    scalars = elements(value)
    if "range" in condition:
        numbers = [s for s in scalars if isinstance(s, (int, float)) and not isinstance(s, bool)]
        return any(inside(number, condition["range"]) for number in numbers)
    if "datetime_range" in condition:
        bounds = {name: moment(bound) for name, bound in condition["datetime_range"].items()}
        return any(inside(moment(scalar), bounds) for scalar in scalars)
    match = condition["match"]
    if "prefix" in match:
        return isinstance(value, list) and scalars[: len(match["prefix"])] == match["prefix"]
    if "except" in match:
        return any(not any(same(s, other) for other in match["except"]) for s in scalars)
    wanted = match["any"] if "any" in match else [match["value"]]
    return any(same(scalar, other) for scalar in scalars for other in wanted)


def holds(node, item):
    """Whether a filter or a condition holds for one item of the catalogue's table."""
    if node and not {"must", "should", "must_not", "min_should"} & set(node):
        return condition_holds(node, item)
    if not all(holds(inner, item) for inner in node.get("must", ())):
        return False
    if any(holds(inner, item) for inner in node.get("must_not", ())):
        return False
    if node.get("should") and not any(holds(inner, item) for inner in node["should"]):
        return False
    group = node.get("min_should")
    if group is None:
        return True
    return sum(holds(inner, item) for inner in group["conditions"]) >= group["min_count"]
