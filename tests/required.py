"""What a machine may lack: its tests are skipped by name, or fail where everything is required."""

import os
import shutil

import pytest


def binary(*names: str) -> str:
    """Return the path of the first of ``names`` that this machine has.

    Where it has none, the test is skipped with the missing name; with ``SIDAR_REQUIRE=all`` in the
    environment it fails instead, so that a machine that shall check everything cannot pass by
    lacking something.
    """
    for name in names:
        path = shutil.which(name)
        if path is not None:
            return path
    words = f"this machine has no {' or '.join(names)}"
    if os.environ.get("SIDAR_REQUIRE") == "all":
        pytest.fail(f"{words}, and SIDAR_REQUIRE=all")
    pytest.skip(words)
