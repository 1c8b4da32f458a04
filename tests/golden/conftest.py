"""The kept models, opened once, and one thread for every golden test."""

import pytest
from golden import answers, observe
from golden.kept import SEARCHES


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with observe.one_thread():
        yield


@pytest.fixture(scope="session")
def retrievers():
    return {name: answers.retriever_of(name) for name in SEARCHES}
