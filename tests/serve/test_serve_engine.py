"""The queue and its passes: joined, in turn, too late, too many, failing, draining; and worker
processes.
"""

import os
import signal
import threading
import time
from concurrent.futures import CancelledError

import pytest
from shop import write_bundle, write_stages

from sidar.serve.engine import ClosedError, Engine, OverloadedError
from sidar.serve.engine.copies import load_copies
from sidar.serve.engine.queue import Ticket, TicketQueue
from sidar.serve.info import BundleInfo
from sidar.serve.plan import Defaults
from sidar.serve.request import RequestError, SearchRequest
from sidar.serve.results import SearchAnswer
from sidar.serve.why import WhyRequest


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_bundle(write_stages(tmp_path_factory.mktemp("run")))


class Fake:
    """A model that answers when it may, and remembers its passes."""

    def __init__(self, seconds=0.0):
        defaults = Defaults("sft", 16, False, None, False, "none", False, 64)
        self.info = BundleInfo("h", 64, (8, 8), (), 0, defaults)
        self.passes, self.seconds, self.may = [], seconds, threading.Event()
        self.may.set()

    def answer(self, requests):
        self.passes.append([request.query for request in requests])
        assert self.may.wait(10)
        time.sleep(self.seconds)
        if "broken" in self.passes[-1]:
            raise ValueError("this one is broken")
        return [SearchAnswer(request.query, [], 16, {}) for request in requests]


class Counts:
    def __init__(self):
        self.late = self.shed = 0
        self.sizes = []

    def passed(self, requests, seconds):
        self.sizes.append(requests)

    def expired(self):
        self.late += 1

    def refused(self):
        self.shed += 1


def held(**options):
    """A model that holds its first pass, the engine over it, and the future of that pass."""
    fake = Fake()
    fake.may.clear()
    engine = Engine([fake], **options)
    first = engine.submit(SearchRequest(query="first"))
    while not fake.passes:
        time.sleep(0.001)
    return fake, engine, first


def test_what_waits_shares_a_pass_in_turn_and_answers_go_to_who_asked():
    fake, engine, first = held(batch=3)
    asked = [("a", {}), ("b", {"beam": 64}), ("c", {}), ("d", {"explain": True}), ("e", {"k": 9})]
    asked += [("f", {}), ("g", {"beam": 60})]
    futures = [engine.submit(SearchRequest(query=query, **more)) for query, more in asked]
    assert engine.waiting == 7
    fake.may.set()
    assert [future.result(5).answer.query for future in futures] == list("abcdefg")
    assert first.result(5).answer.query == "first"
    # three at most; a wide beam is another kind, an explained search is alone
    assert fake.passes == [["first"], ["a", "c", "e"], ["b", "g"], ["d"], ["f"]]
    assert engine.waiting == engine.busy == 0
    engine.close()


def test_a_request_that_is_too_late_or_given_up_costs_no_pass():
    counts = Counts()
    fake, engine, _ = held(observer=counts)
    late = engine.submit(SearchRequest(query="late", timeout_ms=20))
    gone = engine.submit(SearchRequest(query="gone"))
    in_time = engine.submit(SearchRequest(query="in time", timeout_ms=60_000))
    assert gone.cancel()
    time.sleep(0.03)
    fake.may.set()
    answer = late.result(5).answer
    assert (answer.results, answer.reason, answer.bundle) == ([], "deadline", "h")
    assert in_time.result(5).wait_ms > 20
    with pytest.raises(CancelledError):
        gone.result(5)
    assert fake.passes == [["first"], ["in time"]]
    engine.close()
    assert (counts.late, counts.shed, counts.sizes) == (1, 0, [1, 1])


def test_a_full_queue_refuses_and_so_does_one_that_is_too_long_for_a_deadline():
    counts = Counts()
    fake, engine, _ = held(queue=2, observer=counts)
    for query in ("a", "b"):
        engine.submit(SearchRequest(query=query))
    with pytest.raises(OverloadedError, match=r"2 requests wait, which is the most .*serve\.queue"):
        engine.submit(SearchRequest(query="c"))
    fake.may.set()
    engine.close()
    slow = Fake(seconds=0.05)
    engine = Engine([slow], batch=1, observer=counts)
    engine.submit(SearchRequest(query="measured")).result(5)
    futures = [engine.submit(SearchRequest(query=str(n), timeout_ms=5000)) for n in range(4)]
    with pytest.raises(OverloadedError, match="would miss its deadline") as refusal:
        engine.submit(SearchRequest(query="hasty", timeout_ms=60))
    assert refusal.value.retry_after > 0.06
    assert [future.result(5).answer.query for future in futures] == list("0123")
    engine.close()
    assert counts.shed == 2


def test_one_broken_request_does_not_fail_the_others_of_its_pass():
    fake, engine, _ = held()
    futures = {query: engine.submit(SearchRequest(query=query)) for query in ("a", "broken", "c")}
    fake.may.set()
    assert futures["a"].result(5).answer.query == "a"
    assert futures["c"].result(5).answer.query == "c"
    with pytest.raises(ValueError, match="this one is broken"):
        futures["broken"].result(5)
    with pytest.raises(RequestError, match="fuse: this bundle holds no memory"):
        engine.submit(SearchRequest(query="x", fuse="memory"))
    engine.close()


def test_closing_answers_what_was_accepted_and_refuses_the_rest():
    fake, engine, first = held()
    waiting = [engine.submit(SearchRequest(query=str(n))) for n in range(5)]
    closing = threading.Thread(target=engine.close)
    closing.start()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            waiting.append(engine.submit(SearchRequest(query="more")))
        except ClosedError:
            break
    fake.may.set()
    closing.join(5)
    assert all(future.done() for future in [first, *waiting])
    assert sum(map(len, fake.passes)) == 1 + len(waiting)


def test_copies_of_a_model_work_side_by_side():
    copies = [Fake(), Fake()]
    for copy in copies:
        copy.may.clear()
    engine = Engine(copies)
    futures = [engine.submit(SearchRequest(query=query)) for query in "ab"]
    deadline = time.monotonic() + 5
    while not all(copy.passes for copy in copies):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    for copy in copies:
        copy.may.set()
    assert {future.result(5).answer.query for future in futures} == {"a", "b"}
    engine.close()


def test_a_worker_process_answers_as_the_model_here_and_one_that_dies_is_replaced(bundle):
    (worker,) = load_copies(bundle, workers=1)
    (shop,) = load_copies(bundle)
    assert worker.info == shop.info
    # the place of an item goes the same way
    asked = WhyRequest(query="tent", k=2, beam=3, item_id="T000")
    assert worker.answer([asked])[0].why == shop.answer([asked])[0].why
    requests = [
        SearchRequest(query="tent", k=3, history=["T203", "nope"], beam=12),
        SearchRequest(query="", k=500, exact=True, explain=True),
    ]
    for request in requests:
        (answer,) = worker.answer([request])
        want = shop.search(request)
        assert answer.results == want.results
        assert answer.levels == want.levels
        assert (answer.reason, answer.notes) == (want.reason, want.notes)
    with pytest.raises(RequestError, match="model: this one is 'sft'"):
        worker.answer([SearchRequest(query="x", model="other")])
    before = worker._process.pid
    os.kill(before, signal.SIGKILL)
    assert worker.answer([requests[0]])[0].results == shop.search(requests[0]).results
    assert worker._process.pid != before
    worker.close()
    assert worker._process.poll() is not None


def test_a_worker_that_cannot_load_its_bundle_says_why(tmp_path):
    with pytest.raises(ValueError, match=r"is no bundle .*sidar bundle"):
        load_copies(tmp_path, workers=1)


def test_a_taker_that_waited_gives_others_a_moment_to_come():
    queue = TicketQueue(8)
    taken = []

    def take(**more):
        taken.append([ticket.request.query for ticket in queue.take(lambda first: 8, **more)])

    def put(*queries):
        for query in queries:
            queue.put(Ticket(SearchRequest(query=query), "kind"), retry_after=0.0)

    taker = threading.Thread(target=take, kwargs={"wanted": 3, "seconds": 60.0})
    taker.start()
    while not queue._idle:
        time.sleep(0.001)
    put("a", "b", "c")  # the third ends the wait
    taker.join(10)
    put("d", "e")
    take(wanted=3, seconds=60.0)  # whoever finds some at the end of a pass goes on at once
    assert taken == [["a", "b", "c"], ["d", "e"]]


def test_takers_without_work_share_what_is_there():
    queue = TicketQueue(8)
    sizes, takers = [], []
    for _ in range(2):
        take = lambda: sizes.append(len(queue.take(lambda first: 8, 4, 60.0)))  # noqa: E731
        takers.append(threading.Thread(target=take))
        takers[-1].start()
    while queue._idle < 2:
        time.sleep(0.001)
    for query in "abcd":
        queue.put(Ticket(SearchRequest(query=query), "kind"), retry_after=0.0)
    for taker in takers:
        taker.join(10)
    assert sizes == [2, 2]
    assert not queue.kinds
