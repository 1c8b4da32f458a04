"""A real ``sidar serve`` in a process of its own: started, asked, killed."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

KEYS = {"reader": "read", "writer": "write", "boss": "admin"}
#: The sources of this checkout, wherever the process runs.
HERE = {"PYTHONPATH": str(Path(__file__).resolve().parents[2] / "src"), "OMP_NUM_THREADS": "1"}
START_SECONDS = 300.0


def bearer(name: str) -> dict[str, str]:
    """The headers of a request with a key."""
    return {"Authorization": f"Bearer {name}"}


def key_list() -> list[dict[str, str]]:
    """The keys of a config."""
    return [
        {"name": name, "role": role, "sha256": hashlib.sha256(name.encode()).hexdigest()}
        for name, role in KEYS.items()
    ]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@dataclass
class Server:
    """``sidar serve`` over ``bundle`` with a store in ``folder``; ``serve`` = more of its config.

    The same object can be started again: port, store and config stay.
    """

    folder: Path
    bundle: Path
    serve: Mapping[str, Any] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    def start(self) -> Server:
        """Start the process and wait until it is ready; ``RuntimeError`` with its log where it
        ends.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        config = {
            "device": "cpu",
            "threads": 1,
            "serve": {"store": "serve.db", "answers_log": "answers", "keys": key_list()}
            | dict(self.serve),
        }
        (self.folder / "sidar.yaml").write_text(yaml.safe_dump(config))
        command = [sys.executable, "-m", "sidar", "serve", "-c", str(self.folder / "sidar.yaml")]
        command += ["--bundle", str(self.bundle), "--port", str(self.port)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self.folder, env=os.environ | HERE
            )
        self._wait()
        return self

    def _wait(self) -> None:
        assert self.process is not None
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            if self.process.poll() is not None:
                tail = self.log.read_text()[-3000:]
                raise RuntimeError(f"the server ended at its start:\n{tail}")
            try:
                if httpx.get(f"{self.address}/readyz", timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        raise RuntimeError("the server is not ready")

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, seconds: float = 90.0) -> int:
        """Wait for the end of the process and return its status."""
        assert self.process is not None
        return self.process.wait(seconds)

    def stop(self) -> None:
        """End the process where it runs."""
        if self.alive:
            self.signal(signal.SIGTERM)
            try:
                self.wait()
            except subprocess.TimeoutExpired:
                self.signal(signal.SIGKILL)
                self.wait()

    def rss_mib(self) -> float:
        """Resident memory of the process."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise RuntimeError("there is no VmRSS in /proc; memory is measured on Linux only")

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
