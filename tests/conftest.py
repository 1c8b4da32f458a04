"""Runs that several suites read, made once a session; nobody writes into them."""

import pyarrow.parquet as pq
import pytest
import yaml
from fused_shop import SETTINGS, events

from sidar import pipeline
from sidar.config import load_config
from sidar.data import toy


@pytest.fixture(scope="session")
def fused_shop(tmp_path_factory):
    """Days 1 to 7 make a bundle, of which 7 is the test; day 8 comes after."""
    folder = tmp_path_factory.mktemp("shop")
    toy.write_inputs(folder)
    pq.write_table(events(range(1, 8)), folder / "before.parquet")
    pq.write_table(events([7, 8]), folder / "after.parquet")
    (folder / "sidar.yaml").write_text(yaml.safe_dump(SETTINGS))
    pipeline.run(load_config(folder / "sidar.yaml"), only="bundle")
    return folder


def pytest_collection_modifyitems(items):
    """Begin with the file that takes longest, so that two processes end at about the same time."""
    items.sort(key=lambda item: item.path.name != "test_docs.py")
