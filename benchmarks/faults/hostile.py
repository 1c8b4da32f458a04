"""Requests that a schema generates: right ones, and wrong ones of every kind, for every route."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi import checks

#: What an answer is held against: its status, content type, headers and body as declared, and
#: whether what the schema rules out was refused.
CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
]


@dataclass
class Answers:
    """Counts of statuses, and what broke the description: a line each, with how often."""

    sent: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    routes: set[str] = field(default_factory=set)
    examples: dict[str, str] = field(default_factory=dict)

    @property
    def undeclared_5xx(self) -> int:
        """Server errors but 503, which every route declares."""
        return sum(n for status, n in self.statuses.items() if status >= 500 and status != 503)


def send(
    address: str,
    count: int,
    keys: Sequence[Mapping[str, str]],
    rng_seed: int,
    watch: Callable[[int], None] = lambda sent: None,
) -> Answers:
    """Send ``count`` generated requests and hold each answer against the description at
    ``address``/openapi.json.

    ``keys``: headers, of which each request has one set; half of the requests are as the schema
    wants them, half break it. ``watch`` is called after each request.
    """
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    cases = [
        operation.as_strategy(mode)
        for operation in operations
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    ]
    answers = Answers()
    session = requests.Session()

    def visit(case: Any, key: Mapping[str, str]) -> None:
        if answers.sent >= count:
            return
        answers.sent += 1
        _visit(case, address, session, dict(key), answers)
        watch(answers.sent)

    # a route whose parameters cannot be broken has no negative strategy, which the first draw says
    rounds = 0
    while answers.sent < count:
        for place, strategy in enumerate(cases):
            share = max(1, (count - answers.sent) // max(1, len(cases) - place))
            run = given(strategy, st.sampled_from(list(keys)))(visit)
            run = seed(rng_seed + 1000 * rounds + place)(run)
            run = settings(
                max_examples=share,
                phases=[Phase.generate],
                database=None,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            )(run)
            try:
                run()
            except Exception as error:
                if type(error).__name__ not in ("Unsatisfiable", "UnsupportedNegation"):
                    raise
        rounds += 1
    return answers


def _visit(
    case: Any, address: str, session: requests.Session, key: dict[str, str], answers: Answers
) -> None:
    reply = case.call(base_url=address, session=session, headers=key, timeout=60)
    answers.statuses[reply.status_code] += 1
    answers.routes.add(case.operation.label)
    try:
        case.validate_response(reply, checks=CHECKS, headers=key)
    except FailureGroup as failures:
        for failure in failures.exceptions:
            # what is too long is refused before anyone reads what is wrong with it
            if reply.status_code == 413 and "AcceptedNegativeData" in type(failure).__name__:
                continue
            line = f"{case.operation.label}: {type(failure).__name__}: {reply.status_code}"
            answers.broken[line] += 1
            answers.examples.setdefault(line, str(failures))
