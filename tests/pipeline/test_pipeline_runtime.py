import torch

from sidar.config import Config
from sidar.pipeline.demo import merge, settings
from sidar.pipeline.runtime import prepare


def test_prepare_sets_threads_and_seed():
    before = torch.get_num_threads()
    try:
        prepare(Config(threads=1, seed=5))
        first = torch.rand(3)
        prepare(Config(threads=1, seed=5))
        assert torch.equal(first, torch.rand(3))
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_the_demos_settings_are_valid_and_marked():
    for everything in (False, True):
        for tiny in (False, True):
            cfg = Config.model_validate(settings(everything=everything, tiny=tiny))
            assert cfg.events.origin == "simulated"
            by_name = {each.name: each for each in cfg.evaluate.sets}
            assert by_name["judged_test"].origin == "real"
            assert by_name["judged_test"].topic_oracle
            assert by_name["judged_dev"].role == by_name["grounded_valid"].role == "valid"
            assert by_name["grounded_test"].origin == "simulated"
    assert Config.model_validate(settings(everything=True, tiny=False)).evaluate.max_queries == 2000


def test_merge_goes_section_by_section():
    assert merge({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"c": 4}, "e": 5}) == {
        "a": {"b": 1, "c": 4},
        "d": 3,
        "e": 5,
    }
