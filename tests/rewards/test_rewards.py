"""Rewards by hand-worked numbers: graded, rule, MiniOneRec's ranking, functions and a service."""

import json
import math
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import numpy as np
import pytest

from sidar.config import AlignConfig
from sidar.extensions import REWARDS, load_plugins
from sidar.index import PrefixIndex
from sidar.rewards import LoggedRequest, RewardInputs, fitted_reward
from sidar.types import Prompt, Rollouts, SemanticIds

#: Items 0 and 1 share SID 0; 2, 3, 4 and 5 have one each (SIDs 1 to 4).
CODES = np.array([[0, 0], [0, 0], [0, 1], [1, 0], [1, 1], [2, 0]], np.int32)
#: 0 was clicked and 1 shown beside it, 2 shown, 3 ordered, 4 neither.
REQUEST = LoggedRequest(Prompt("mug", (5,), "flat"), {0: 1, 3: 3}, (1, 2), "r1", 7)


def inputs(alive=(True,) * 6):
    sids = SemanticIds(CODES, np.full(6, 2, np.int32), (4, 4))
    catalogue = SimpleNamespace(
        alive=np.array(alive), item_ids=np.array([f"i{row}" for row in range(6)], object)
    )
    dataset = SimpleNamespace(catalogue=catalogue)
    return RewardInputs(dataset, PrefixIndex.build(sids), run=None)


def group(*sids, logp=None):
    """The SIDs of one request, listed as drawn."""
    numbers = np.array([sids])
    shape = numbers.shape
    logp = np.full(shape, np.nan) if logp is None else np.array([logp])
    codes = np.full((*shape, 2), -1, np.int32)
    levels = np.zeros((*shape, 3), np.float32)
    return Rollouts(numbers, codes, np.zeros(shape, np.int32), logp, levels)


def scores(rollouts, alive=(True,) * 6, request=REQUEST, **options):
    reward = fitted_reward(AlignConfig(**options), inputs(alive))
    return reward.score([request], rollouts)[0].tolist()


EVERY = group(0, 1, 2, 3, 4, -1)


def test_the_graded_reward_takes_the_first_match():
    # clicked, shown, ordered, neither, neither, no SID
    assert scores(EVERY) == [1.0, 0.5, 1.0, 0.1, 0.1, 0.0]
    graded = {"order": 2, "click": 0.7, "exposed": 0.4, "valid": 0.2, "invalid": -1}
    assert scores(EVERY, rewards={"graded": graded}) == [0.7, 0.4, 2.0, 0.2, 0.2, -1.0]
    carted = LoggedRequest(Prompt("mug"), {4: 2})
    assert scores(group(3), request=carted, rewards={"graded": {"cart": 0.8}}) == [0.8]
    # an item that the log has as chosen and as shown is chosen
    both = LoggedRequest(Prompt("mug"), {2: 1}, (2,))
    assert scores(group(1), request=both) == [1.0]


def test_an_sid_is_worth_its_best_available_item():
    mean = {"graded": {"pool": "mean"}}
    assert scores(group(0), rewards=mean) == [pytest.approx((1.0 + 0.5) / 2)]
    gone = (False, True, True, True, True, False)  # the clicked item of SID 0, and SID 4
    assert scores(group(0, 4), gone) == [0.5, 0.0]


def test_the_rule_is_one_for_chosen_items():
    assert scores(EVERY, reward="rule") == [1, 0, 1, 0, 0, 0]


def test_minionerecs_ranking_penalises_wrong_sids_by_their_rank():
    # in falling log-prob: SID 3 (wrong), SID 0 (right), SID -1 (wrong)
    rollouts = group(0, -1, 3, logp=[-2.0, -3.0, -1.0])
    total = 1 / math.log2(2) + 1 / math.log2(3) + 1 / math.log2(4)  # 1 + .6309 + .5 = 2.1309
    want = [1.0, -0.5 / total, -1.0 / total]
    assert scores(rollouts, reward="ranking") == pytest.approx(want)
    assert want == pytest.approx([1.0, -0.2346, -0.4693], abs=1e-4)
    assert scores(group(1, 3, 4, logp=[-1, -2, -3]), reward="ranking") == [0, 0, 0]
    # log-probs that are not known leave the order of the list
    unknown = scores(group(3, 0, 4), reward="ranking")
    assert unknown == pytest.approx([-1.0 / total, 1.0, -0.5 / total])


PLUGIN = """
import numpy as np
from pydantic import BaseModel, ConfigDict
from sidar.rewards import register_reward

class Options(BaseModel):
    model_config = ConfigDict(extra="forbid")
    scale: float = 2.0

@register_reward("rows", options=Options)
def rows_reward(request, rows, options):
    return {body}
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    monkeypatch.setattr(REWARDS, "_parts", dict(REWARDS._parts))

    def write(body):
        file = tmp_path / f"mine{len(list(tmp_path.iterdir()))}.py"
        file.write_text(PLUGIN.format(body=body))
        load_plugins([str(file)])
        return file

    return write


def test_a_function_is_a_reward_of_items(plugin):
    plugin("options.scale * rows")
    align = AlignConfig(reward="rows")
    assert align.rewards.section("rows").scale == 2.0
    assert align.model_dump()["rewards"]["rows"] == {"scale": 2.0}
    assert scores(EVERY, reward="rows") == [2, 4, 6, 8, 10, 0]
    assert scores(EVERY, reward="rows", rewards={"rows": {"scale": 3}}) == [3, 6, 9, 12, 15, 0]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("rows / 0 * np.inf", r"'rows' \(.*mine0\.py\): returned nan for SID 0 of request 'r1'"),
        ("rows[:1]", r"mine0\.py\): must return a number per item, \(6,\), got \(1,\)"),
        ("no_such_name", r"name 'no_such_name'"),
    ],
)
def test_what_a_plugin_returns_is_checked(plugin, body, says):
    plugin(body)
    with np.errstate(all="ignore"), pytest.raises((ValueError, NameError), match=says):
        scores(EVERY, reward="rows")


def test_a_plugin_that_is_no_reward_is_refused(plugin, tmp_path):
    file = (tmp_path / "mine").with_suffix(".py")
    file.write_text(PLUGIN.format(body="rows").replace("(request, rows, options)", "(rows)"))
    with pytest.raises(ValueError, match=r"must take \(request, rows, options\)"):
        load_plugins([str(file)])
    file.write_text(
        "from sidar.rewards import register_reward\n@register_reward('r')\nclass R:\n    pass\n"
    )
    with pytest.raises(ValueError, match=r"@register_reward wants a class made of .*\(Reward\)"):
        load_plugins([str(file)])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"reward": "grded"}, r"'grded' is not one of .*; did you mean graded\?"),
        ({"rewards": {"graded": {"clik": 1}}}, r"clik"),
        ({"rewards": {"grad": {}}}, r"no such option; did you mean graded\?"),
    ],
)
def test_a_misspelt_reward_or_option_is_named(options, says):
    with pytest.raises(ValueError, match=says):
        AlignConfig(**options)


# ------------------------------------------------------------------ a service


class Service(BaseHTTPRequestHandler):
    """Answers what the test says, and keeps what it was asked."""

    def do_POST(self):
        self.server.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        status, answer = self.server.answers.pop(0)
        body = (answer(self.server.asked[-1]) if callable(answer) else answer).encode()
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def service():
    server = HTTPServer(("127.0.0.1", 0), Service)
    server.asked, server.answers = [], []
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def at(server, **options):
    url = f"http://127.0.0.1:{server.server_port}/score"
    return {"reward": "url", "rewards": {"url": {"url": url, **options}}}


def by_number(asked):
    return json.dumps({"scores": [[float(i[1:]) for i in ids] for ids in asked["items"]]})


def test_a_service_is_asked_once_for_all_requests(service):
    service.answers = [(200, by_number)]
    reward = fitted_reward(AlignConfig(**at(service)), inputs())
    both = Rollouts(*(np.repeat(part, 2, 0) for part in vars(EVERY).values() if part is not None))
    found = reward.score([REQUEST, REQUEST], both)
    assert found.tolist() == [[1, 2, 3, 4, 5, 0]] * 2
    (asked,) = service.asked
    one = {"request_id": "r1", "ts": 7, "query": "mug", "profile": "flat", "history": ["i5"]}
    assert asked == {
        "requests": [one, one],
        "items": [["i0", "i1", "i2", "i3", "i4", "i5"]] * 2,
    }


def test_a_service_that_fails_is_asked_again_and_then_named(service):
    service.answers = [(503, "busy"), (200, by_number)]
    assert scores(group(1), **at(service)) == [2.0]
    service.answers = [(503, "busy")] * 3
    with pytest.raises(ValueError, match=r"score answered 503 .*: busy; see that the service runs"):
        scores(group(1), **at(service))
    service.answers = [(404, "no")]
    with pytest.raises(ValueError, match="answered 404"):
        scores(group(1), **at(service))
    assert len(service.asked) == 2 + 3 + 1


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("[]", r'wants {"scores": \[\[\.\.\.\]\]} as JSON, answered'),
        ('{"scores": []}', r"wants a list of 1 lists in scores, got 0"),
        ('{"scores": [[1, 2]]}', r"request 0 has 1 items, its scores are 2"),
        ('{"scores": [[null]]}', r"request 0, item 'i2': None is no finite number"),
        ('{"scores": [[NaN]]}', r"request 0, item 'i2': nan is no finite number"),
    ],
)
def test_an_answer_that_is_no_reward_is_named(service, answer, says):
    service.answers = [(200, answer)]
    with pytest.raises(ValueError, match=says):
        scores(group(1), **at(service))


def test_a_service_that_is_silent_or_not_there_is_named(service):
    with pytest.raises(ValueError, match=r"align\.rewards\.url\.url is ''"):
        scores(group(1), reward="url")
    import time

    service.answers = [(200, lambda asked: time.sleep(0.2) or "")]
    with pytest.raises(ValueError, match=r"did not answer within .*timeout_s 0\.05"):
        scores(group(1), **at(service, timeout_s=0.05, retries=0))
    options = at(service, retries=0)
    options["rewards"]["url"]["url"] = "http://127.0.0.1:9/none"
    with pytest.raises(ValueError, match=r"cannot be reached: .*refused"):
        scores(group(1), **options)
