"""What passes cost, whether a request is in time, how many share a pass: by a clock of the test."""

import heapq
import random

import pytest

from sidar.serve.engine.pace import IN_TIME, PASS_SHARE, Cost, Pace
from sidar.serve.engine.queue import Ticket, TicketQueue
from sidar.serve.request import SearchRequest


def test_the_cost_of_a_pass_by_hand():
    cost = Cost()
    assert cost.of(8) == cost.each == 0
    cost.note(1, 0.3)
    # one size alone: nothing is fixed that is known of
    assert cost.of(4) == pytest.approx(1.2)
    for _ in range(50):
        cost.note(1, 0.3)
        cost.note(5, 0.7)
    # 0.2 + 0.1 n
    assert [cost.of(n) for n in (1, 2, 5, 10)] == pytest.approx([0.3, 0.4, 0.7, 1.2])
    # of passes with 5 and 1, the 5 last: (0.7 + 0.8 · 0.3) / (5 + 0.8 · 1)
    assert cost.each == pytest.approx(0.94 / 5.8)
    # larger passes that are no slower leave each request half of its mean
    cost = Cost()
    cost.note(4, 0.4)
    cost.note(8, 0.3)
    assert cost.of(0) == pytest.approx(0.62 / 1.8 / 2)
    assert cost.of(32) == pytest.approx(0.62 / 1.8 / 2 + 32 * 0.62 / 11.2 / 2)


def learnt(copies=2, batch=32, fixed=0.2, each=0.1):
    pace = Pace(copies, batch)
    for n in (1, 5) * 40:
        pace.end(pace.begin(0.0, "kind", n), fixed + each * n, "kind", n)
    return pace


def test_a_request_waits_for_a_copy_then_for_those_before_it_then_for_its_own_pass():
    pace = learnt(batch=4)
    assert pace.expected(0.0, {}, "kind") == pytest.approx(0.3)
    assert pace.expected(0.0, {}, "other") == 0  # nothing is known of it
    pace.begin(0.0, "kind", 8)
    # one copy is free still
    assert pace.expected(0.0, {"kind": 2}, "kind") == pytest.approx(0.5)
    pace.begin(0.5, "kind", 3)
    # one is free at 1.0 and one at 1.0; its pass of four will be full by then
    assert pace.expected(0.6, {"kind": 3}, "kind") == pytest.approx(0.4 + 0.6)
    # four and four are before it
    assert pace.expected(0.6, {"kind": 8}, "kind") == pytest.approx(0.4 + 0.6 + 0.6)
    # two of another kind cost what its latest did, shared by both copies
    pace.end(pace.begin(0.0, "wide", 1), 0.8, "wide", 1)
    assert pace.expected(0.6, {"wide": 2}, "kind") == pytest.approx(0.4 + 0.8 + 0.6)
    # a pass that takes longer than it should ends any moment
    assert pace.expected(9.0, {}, "kind") == pytest.approx(0.3)


def test_a_pass_takes_a_part_of_the_deadline_at_most():
    pace = learnt()
    assert pace.most("kind", None) == pace.most("new", 1.0) == 32
    # 0.2 + 0.1 n ≤ 3 · PASS_SHARE < 0.2 + 0.1 · 9
    assert pace.most("kind", 3.0) == 8
    assert PASS_SHARE == 0.35
    assert pace.most("kind", 0.1) == 1
    assert Pace(1, 5).most("kind", None) == 5
    # and a request counts on that: its pass is shorter than a full one
    pace.begin(0.0, "kind", 1)
    pace.begin(0.0, "kind", 1)
    assert pace.expected(0.0, {}, "kind", 3.0) == pytest.approx(0.3 + 1.0)


def test_a_pass_that_failed_teaches_nothing():
    pace = learnt()
    before = pace.expected(0.0, {}, "kind")
    pace.end(pace.begin(0.0, "kind", 1), 99.0, "kind", 1, counts=False)
    assert pace.expected(0.0, {}, "kind") == before


def flood(rate, seconds, *, copies=2, fixed=0.03, each=0.02, limit_ms=1000):
    """Let requests come at ``rate`` for ``seconds`` to copies whose passes take fixed + each · n,
    ± 20 %.

    Returns how many were in time, late and refused, and when the last pass ended.
    """
    chance, queue = random.Random(0), TicketQueue(256)
    pace = learnt(copies, fixed=fixed, each=each)
    events = [(place / rate, place, None) for place in range(int(rate * seconds))]
    free, kind, counts, now = copies, "kind", {"good": 0, "late": 0, "refused": 0}, 0.0
    while events:
        now, place, ended = heapq.heappop(events)
        if ended is None:
            request = SearchRequest(query=str(place), timeout_ms=limit_ms)
            ticket = Ticket(request, kind, arrived=now)
            seconds = limit_ms / 1000
            if pace.expected(now, queue.kinds, kind, seconds) <= IN_TIME * seconds:
                queue.put(ticket, retry_after=0.0)
            else:
                counts["refused"] += 1
        else:
            number, tickets = ended
            pace.end(number, now, kind, len(tickets))
            for ticket in tickets:
                counts["late" if ticket.expired(now) else "good"] += 1
            free += 1
        while free and len(queue):
            tickets = queue.take(lambda first: pace.most(first.kind, first.seconds))
            takes = (fixed + each * len(tickets)) * chance.uniform(0.8, 1.2)
            number = pace.begin(now, kind, len(tickets))
            heapq.heappush(events, (now + takes, 1_000_000 + number, (number, tickets)))
            free -= 1
    return counts, now


def test_in_a_flood_what_is_taken_is_in_time_and_no_copy_is_idle():
    most = 2 * 32 / (0.03 + 0.02 * 32)  # searches a second in full passes
    counts, ended = flood(10 * most, 10.0)
    # passes are shorter than full ones, and some take longer than expected
    assert counts["good"] / 10 > 0.85 * most
    assert counts["late"] < 0.03 * counts["good"]
    assert ended < 10 + 1  # nothing is left behind
    counts, _ = flood(0.5 * most, 10.0)
    assert counts["refused"] == counts["late"] == 0
