"""A PostgreSQL server of its own for tests: on loopback, in a folder that goes with it."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

#: Where Debian puts what it does not put on the path.
DEBIAN = "/usr/lib/postgresql"


def binary(name: str) -> str:
    """The path of a program of the server; skips without it, or fails where all is required."""
    places = sorted(Path(DEBIAN).glob(f"*/bin/{name}"), reverse=True)
    path = shutil.which(name) or (str(places[0]) if places else None)
    if path is None:
        needed(f"{name} (Debian: postgresql) is missing")
    assert path is not None
    return path


def needed(why: str) -> None:
    """Skip for ``why``, or fail under ``SIDAR_REQUIRE=all``."""
    if os.environ.get("SIDAR_REQUIRE") == "all":
        pytest.fail(why)
    pytest.skip(why)


def _as_user() -> tuple[list[str], str | None]:
    """What to write before a command so that it does not run as root, which the server refuses."""
    if os.geteuid() != 0:
        return [], None
    users = {user.pw_name for user in pwd.getpwall()}
    name = "postgres" if "postgres" in users else "nobody"
    user = pwd.getpwnam(name)
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        needed("setpriv is missing, and the server does not run as root")
    assert setpriv is not None
    return [setpriv, f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"], name


class Server:
    """A server that can be stopped and started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._as, user = _as_user()
        self._control = binary("pg_ctl")
        if user is not None:
            shutil.chown(folder, user)
        # what is on the disk is not tested by losing power, so nothing waits for it
        self._run(binary("initdb"), "-D", "data", "-A", "trust", "-U", "sidar", "--no-sync")
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c fsync=off -k {folder}"
        self._start = ["-D", "data", "-o", options, "-l", "log", "-w", "start"]

    def start(self) -> None:
        self._run(self._control, *self._start)

    def stop(self) -> None:
        self._run(self._control, "-D", "data", "-m", "immediate", "-w", "stop")

    def url(self, database: str) -> str:
        return f"postgresql://sidar@127.0.0.1:{self.port}/{database}"

    def _run(self, *command: str) -> None:
        # no pipes: the server would keep them open
        with (self.folder / "out").open("ab") as out:
            done = subprocess.run(
                [*self._as, *command], cwd=self.folder, stdout=out, stderr=out, check=False
            )
        assert done.returncode == 0, (self.folder / "out").read_text()


@contextmanager
def running() -> Iterator[Server]:
    """A server that runs inside the block."""
    folder = Path(tempfile.mkdtemp(prefix="sidar-postgres-"))
    try:
        server = Server(folder)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)
