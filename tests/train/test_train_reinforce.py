"""Reinforcement on the toy shop: what is in a group, what it is worth, with which weights it was
written, and that a run which was cut goes on as it would have.
"""

import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from toy_train import (
    quick,
    reinforce_task,
    tiny_model,
    toy_sids,
    write_backbone,
)

from sidar.config import AlignConfig
from sidar.index import PrefixIndex
from sidar.lm.packing import pack, score
from sidar.lm.scorer import LmScorer
from sidar.rewards import Reward
from sidar.train import loop
from sidar.train.loop import fit
from sidar.train.rl.groups import Group, tabulate
from sidar.train.rl.reinforce import with_exposures

INDEX = PrefixIndex.build(toy_sids())


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return write_backbone(tmp_path_factory.mktemp("backbone"), hidden=16, layers=1)


def settings(objective="grpo", **changes):
    rollouts = {"group": 4, **changes.pop("rollouts", {})}
    rates = {"steps": 4, "batch_size": 8, "validate_every": 100, "log_every": 1}
    return quick(AlignConfig, objective=objective, rollouts=rollouts, **{**rates, **changes})


class Numbers(Reward):
    """An SID's reward is its number: what is scored can be read off the rewards."""

    def score(self, requests, rollouts):
        self.requests = list(requests)
        return rollouts.sids.astype(np.float64)


def batch(backbone, cfg, step=0, reward=None):
    task = reinforce_task(tiny_model(backbone), cfg, reward=reward)
    return task, task.batch(step)


def numbers_of(candidates):
    codes = [[*c.codes, *(-1,) * (3 - len(c.codes))] for c in candidates]
    return INDEX.lookup(np.array(codes, np.int64).reshape(-1, 3))


def groups_of(examples):
    """Per request of a batch: its positives' SIDs, its members' SIDs, its group."""
    for example in examples:
        if example.group is not None:
            numbers, members = numbers_of(example.candidates), example.group.rollout
            yield numbers[~members], numbers[members], example.group


def logged(task, number=0):
    """What each request of a round chose, by tier, and showed."""
    asked = [drawn.asked for drawn in task._pools.batch(number) if drawn.asked is not None]
    return [(dict(one.request.tiers), set(one.request.exposed)) for one in asked]


# ------------------------------------------------------------------ what is in a group


def test_a_group_stands_behind_the_positives_and_is_scored_by_the_reward(backbone):
    task = reinforce_task(tiny_model(backbone), settings(item_share=0.5))
    batches = [task.batch(step) for step in range(4)]
    examples = [example for one in batches for example in one]
    assert all(example.is_list == (example.group is not None) for example in examples)
    lists = [example for example in examples if example.is_list]
    assert 8 < len(lists) < 32
    said = [one for step in range(4) for one in logged(task, step)]
    for example, (tiers, exposed) in zip(lists, said, strict=True):
        positives = [c.is_positive for c in example.candidates]
        assert example.group.rollout.tolist() == [not one for one in positives]
        numbers = numbers_of(example.candidates)
        assert len(set(numbers[example.group.rollout])) == 4  # gumbel: all different
        # in the toy shop SID number = row, so the graded reward can be written down
        want = [1.0 if n in tiers else 0.5 if n in exposed else 0.1 for n in numbers]
        assert example.group.reward.tolist() == want
        assert example.group.valid.all()
        assert not example.group.expert.any()


def test_any_reward_reaches_the_group_and_the_gradient(backbone):
    def gradient(reward):
        task, examples = batch(backbone, settings("grpo", item_share=0.0), reward=reward)
        packed = packed_of(task.model, examples)
        outcome = task.forward(packed, torch.ones(len(examples), dtype=torch.bool))
        outcome.loss.backward()
        return task.model.sid_in.grad.clone(), examples

    by_number, examples = gradient(Numbers())
    for positives, members, group in groups_of(examples):
        want = [*positives, *members]
        np.testing.assert_array_equal(group.reward, want)
    by_log, _ = gradient(None)
    assert not torch.allclose(by_number, by_log)


def packed_of(model, examples):
    packed = pack([x.tokens for x in examples], [x.candidates for x in examples], model.vocab)
    packed.given = tabulate([x.group for x in examples], packed.tier.shape[1])
    return packed


@pytest.mark.parametrize("mode", ["append", "replace"])
def test_experts_are_logged_sids_that_were_not_drawn(backbone, mode):
    cfg = settings("eggrpo", eggrpo={"experts": 2, "expert_mode": mode}, item_share=0.0)
    task, examples = batch(backbone, cfg)
    injected = 0
    for (tiers, exposed), (_, members, group) in zip(
        logged(task), groups_of(examples), strict=True
    ):
        expert = group.expert[group.rollout]
        drawn, experts = members[~expert], members[expert]
        assert len(members) == (4 if mode == "replace" else 4 + len(experts))
        assert not set(drawn) & set(experts)
        assert set(experts) <= set(tiers) | exposed
        if mode == "append":  # chosen ones come first
            left = set(tiers) - set(drawn)
            assert len(set(experts) & set(tiers)) == min(2, len(left))
        injected += len(experts)
        assert group.inclusion is None
    assert injected > 8
    assert sum(x.counts["experts"] for x in examples) == injected


def test_without_experts_a_group_is_what_was_drawn(backbone):
    plain = batch(backbone, settings("eggrpo", eggrpo={"experts": 0}))[1]
    for _, members, group in groups_of(plain):
        assert len(members) == 4
        assert not group.expert.any()
        assert group.inclusion.shape == group.reward.shape
        assert (group.inclusion > 0).all()


def test_one_expert_makes_the_rewards_of_almost_every_group_differ(backbone):
    """A model that knows nothing seldom writes what was chosen; then all rewards are the same."""

    def alike(experts):
        cfg = settings("eggrpo", eggrpo={"experts": experts}, item_share=0.0, batch_size=32)
        rewards = [
            group.reward[group.rollout] for _, _, group in groups_of(batch(backbone, cfg)[1])
        ]
        return np.mean([len(set(one)) == 1 for one in rewards])

    assert alike(experts=0) > 0.4
    assert alike(experts=1) == 0


@pytest.mark.parametrize("source", ["rollouts", "truth"])
def test_perturbation_items_are_sids_of_other_requests(backbone, source):
    cfg = settings("adagrpo", item_share=0.0, adagrpo={"perturbation_source": source})
    reward = Numbers()
    _, examples = batch(backbone, cfg, reward=reward)
    groups = list(groups_of(examples))
    for b, (_, _, group) in enumerate(groups):
        foreign = group.perturbation_reward
        assert foreign.shape == (4,)
        foreign = foreign[~np.isnan(foreign)]
        assert len(set(foreign)) == len(foreign) > 0
        others = [
            set(positives[:1]) if source == "truth" else set(members)
            for number, (positives, members, _) in enumerate(groups)
            if number != b
        ]
        assert set(foreign) <= set().union(*others)
        assert not set(foreign) & set(reward.requests[b].tiers)  # SID number = row
    assert batch(backbone, settings("grpo"))[1][0].group.perturbation_reward.shape == (0,)


def test_the_same_requests_are_drawn_for_in_another_way_in_another_round(backbone):
    task, first = batch(backbone, settings(item_share=0.0))
    again = reinforce_task(tiny_model(backbone), settings(item_share=0.0)).batch(0)
    assert [x.candidates for x in first] == [x.candidates for x in again]
    asked = [x for drawn in task._pools.batch(0) if (x := drawn.asked) is not None]
    other, _ = task._explorer(asked, 1)
    assert [x.candidates for x in first] != [x.candidates for x in other]


def test_method_and_temperature_reach_the_draws(backbone):
    def different(**rollouts):
        cfg = settings(item_share=0.0, rollouts={"method": "temperature", "group": 8, **rollouts})
        return [len(set(members)) for _, members, _ in groups_of(batch(backbone, cfg)[1])]

    assert max(different(temperature=1e-4)) <= 2  # the likeliest one, or what all but ties with it
    assert max(different(temperature=1.0)) > 4
    assert set(different(method="beam")) == {8}


def test_what_free_sampling_cannot_spell_is_counted_and_left_out(backbone):
    cfg = settings("grpo", rollouts={"method": "free", "group": 8}, item_share=0.0)
    model = tiny_model(backbone, head="full")  # mostly writes words
    examples = reinforce_task(model, cfg).batch(0)
    counts = [x.counts for x in examples]
    assert sum(one["rollouts_that_cannot_be_spelled"] for one in counts) > 0
    for example in examples:
        left = example.counts["rollouts_that_cannot_be_spelled"]
        assert example.group.rollout.sum() == example.counts["rollouts"] - left
    # level heads write codes of the level, but not always a product
    examples = batch(backbone, cfg)[1]
    valid = np.concatenate([x.group.valid[x.group.rollout] for x in examples])
    reward = np.concatenate([x.group.reward[x.group.rollout] for x in examples])
    assert len(valid) == 8 * len(examples)
    assert (reward[~valid] == 0).all()


# ------------------------------------------------------------------ with which weights


def trained(backbone, cfg, work, **kwargs):
    task = reinforce_task(tiny_model(backbone), cfg, **kwargs)
    made = fit(task, cfg, seed=0, device="cpu", work=work, identity={}, title="t", progress=False)
    lines = (work / "log.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return task, [record for record in records if record["kind"] == "train"], made


def test_each_group_is_written_with_the_weights_of_the_last_step(backbone, tmp_path, monkeypatch):
    # with experts the first step already has something to learn
    cfg = settings("eggrpo", lr_new=0.1, lr_pretrained=0.1, item_share=0.0)
    _, records, _ = trained(backbone, cfg, tmp_path / "a")
    assert all(record["rollout/logp_gap"] < 1e-4 for record in records)
    # where the engine keeps its first weights, the gap says so from the second step on
    monkeypatch.setattr(LmScorer, "refresh", lambda self: None)
    _, stale, _ = trained(backbone, cfg, tmp_path / "b")
    assert stale[0]["rollout/logp_gap"] < 1e-4
    assert all(record["rollout/logp_gap"] > 1e-2 for record in stale[1:])


def test_inner_steps_learn_from_one_group_and_keep_its_log_probs(backbone, tmp_path):
    cfg = settings("eggrpo", rollouts={"inner_steps": 2}, item_share=0.0)
    task = reinforce_task(tiny_model(backbone), cfg)
    first = task.batch(0)
    packed = packed_of(task.model, first)
    with torch.no_grad():
        logp = score(task.model, packed).logp.numpy()
    for example, steps in zip(first, logp, strict=True):  # experts too, so that their ratio is 1
        np.testing.assert_allclose(
            example.group.old_logp, steps[: len(example.candidates)], atol=1e-5
        )
    every = torch.ones(len(first), dtype=torch.bool)
    assert float(task.forward(packed, every).terms["ratio/mean"]) == pytest.approx(1, abs=1e-5)
    with torch.no_grad():
        for head in task.model.heads:
            head.add_(0.3 * torch.randn_like(head))
    assert task.batch(1) is first
    assert float(task.forward(packed, every).terms["ratio/mean"]) != pytest.approx(1, abs=1e-3)
    third = task.batch(2)
    assert [x.candidates for x in third] != [x.candidates for x in first]


@pytest.mark.parametrize(
    ("objective", "inner"), [("adagrpo", 1), ("eggrpo", 3)], ids=["on policy", "inside a round"]
)
def test_a_run_that_was_cut_ends_with_the_same_weights(
    backbone, tmp_path, monkeypatch, objective, inner
):
    cfg = settings(
        objective,
        **{"steps": 7, "checkpoint_every": 4, "adagrpo": {"gate": "random"}},
        rollouts={"inner_steps": inner},
    )
    whole, records, _ = trained(backbone, cfg, tmp_path / "whole")
    original = loop.LmTraining._step

    def dies(self, step):
        if step == 6:
            raise KeyboardInterrupt
        return original(self, step)

    monkeypatch.setattr(loop.LmTraining, "_step", dies)
    with pytest.raises(KeyboardInterrupt):
        trained(backbone, cfg, tmp_path / "cut")
    monkeypatch.setattr(loop.LmTraining, "_step", original)
    resumed, again, made = trained(backbone, cfg, tmp_path / "cut")
    assert made.resumed_from == 4
    after = resumed.model.state_dict()
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, after[name]), name
    timeless = [
        [{k: v for k, v in one.items() if k not in ("seconds", "tokens_per_s")} for one in log]
        for log in (records, again)
    ]
    assert timeless[0] == timeless[1]


# ------------------------------------------------------------------ log, batches, refusals


def test_the_log_shows_what_was_drawn_and_the_gate(backbone, tmp_path):
    cfg = settings("adagrpo", log_every=2, item_share=0.5)
    _, records, made = trained(backbone, cfg, tmp_path)
    last = records[-1]
    shares = {
        *("group/zero_variance", "group/valid", "group/unique", "gate/open"),
        *("rollout/click_hit", "rollout/exposure_hit", "rollout/distinct", "rollout/valid"),
        *(
            f"stratum/{name}/share"
            for name in ("difficult_discriminable", "difficult_only", "discriminable_only")
        ),
    }
    assert all(0 <= last[name] <= 1 for name in shares)
    assert last["rollout/entropy"] > 0
    assert last["group/reward_mean"] > 0
    assert "pairs/count" not in last  # rollouts are no negatives
    assert made.counts["rollouts"] == 4 * made.counts["requests"] > 0


def test_hit_rates_by_hand(backbone):
    task, examples = batch(backbone, settings(item_share=0.0, rollouts={"group": 16}))
    clicks, shows = [], []
    for (tiers, exposed), (_, members, _) in zip(logged(task), groups_of(examples), strict=True):
        clicks.append(bool(set(tiers) & set(members)))
        shows += [bool(exposed & set(members))] if exposed else []
    assert task._seen["rollout/click_hit"] == pytest.approx(np.mean(clicks))
    assert task._seen["rollout/exposure_hit"] == pytest.approx(np.mean(shows))


def test_a_batch_of_item_rows_alone_is_plain_sft(backbone):
    task, examples = batch(backbone, settings("adagrpo", item_share=0.9))
    items = [x for x in examples if x.group is None]
    mixed = packed_of(task.model, examples)
    is_list = torch.tensor([x.is_list for x in examples])
    assert torch.isfinite(task.forward(mixed, is_list).loss)
    outcome = task.forward(
        pack([x.tokens for x in items], [x.candidates for x in items], task.model.vocab),
        torch.zeros(len(items), dtype=torch.bool),
    )
    assert outcome.parts is None
    assert torch.isfinite(outcome.loss)
    assert not outcome.terms


def test_several_processes_are_refused(backbone, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="'grpo' writes its rollouts in one process"):
        reinforce_task(tiny_model(backbone), settings())


def test_a_round_that_no_checkpoint_holds_is_refused(backbone):
    task = reinforce_task(tiny_model(backbone), settings(rollouts={"inner_steps": 3}))
    with pytest.raises(ValueError, match="step 4 continues round 1, which no checkpoint holds"):
        task.batch(4)


def test_tables_of_groups_leave_room_for_padding_and_rows_without_one():
    group = Group(
        rollout=np.array([False, True]),
        expert=np.array([False, False]),
        valid=np.array([True, False]),
        reward=np.array([1.0, 0.5]),
        old_logp=np.full((2, 4), -1.0, np.float32),
        perturbation_reward=np.array([0.1, np.nan]),
    )
    given = tabulate([None, group], 3)
    assert given["rollout"].tolist() == [[False] * 3, [False, True, False]]
    assert given["valid"].tolist() == [[True] * 3, [True, False, True]]
    assert given["reward"].tolist() == [[0, 0, 0], [1.0, 0.5, 0]]
    assert given["old_logp"].isnan()[1].all(-1).tolist() == [False, False, True]
    assert given["perturbation_reward"].isnan().tolist() == [[True, True], [False, True]]
    assert "inclusion" not in given
    again = Group.from_json(json.loads(json.dumps(group.to_json())))
    for name, value in vars(group).items():
        np.testing.assert_array_equal(getattr(again, name), value)


def test_exposures_are_what_a_request_showed_and_nobody_chose(tmp_path):
    requests = pa.table(
        {
            "request_id": ["a", "b", "c"],
            "rows": [[3, 4, 5], [6], [7, 8]],
            "actions": [[0, 1, 0], [0], [3, 1]],
        }
    )
    pq.write_table(requests, tmp_path / "requests.parquet")
    lists = pa.table({"request_id": ["c", "a"]})
    table = with_exposures(lists, SimpleNamespace(folder=tmp_path))
    assert table.column("exposed").to_pylist() == [[], [3, 5]]
