"""The toy shop before training, built once for all tests here."""

import pytest


@pytest.fixture(scope="session")
def shop(tmp_path_factory):
    """Folder with ``inputs/``, ``data/`` and ``sid/``."""
    from toy_stages import build_shop

    return build_shop(tmp_path_factory.mktemp("shop"))
