"""The fused shop and its bundle; none of the tests writes into it."""

import pytest

from sidar import Retriever
from sidar.answer.key import VARIABLE


@pytest.fixture(scope="session")
def shop(fused_shop):
    return fused_shop


@pytest.fixture(scope="session")
def served(shop):
    return Retriever.load(shop / "runs/shop/bundle", precision="fp32")


@pytest.fixture(autouse=True)
def _no_key_in_the_environment(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
