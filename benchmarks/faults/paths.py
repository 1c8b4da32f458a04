"""Names that lead out of where they belong: ``..``, absolute paths, zeros, other alphabets."""

from __future__ import annotations

import hashlib
import http.client
import itertools
import json
from pathlib import Path
from urllib.parse import quote

from benchmarks.faults.server import Server, bearer

_UP = ["../", "..%2f", "%2e%2e/", "%2e%2e%2f", "..\\", "..%5c", "%252e%252e%252f", "....//", "..;/"]
_TARGETS = ["etc/passwd", "secret.txt", "outside", "outside/bundle.json", "app.py", "serve.db"]
_WHOLE = [
    *("/etc/passwd", "//etc/passwd", "file:///etc/passwd", "C:\\boot.ini", "\\\\host\\share"),
    *("~/.ssh/id_rsa", "$HOME", "`id`", "%00", "day1%00.html", "index.html%00.js"),
    *(".", "..", "..."),
    *("CON", "aux", "%c0%ae%c0%ae/", "％２ｅ％２ｅ/", "‥/", "\u2024\u2024/", "a" * 255, "%ff%fe"),
]


def names(count: int) -> list[str]:
    """Return ``count`` names, as they stand in a request line."""
    climbs = [
        up * depth + target
        for target, depth, up in itertools.product(_TARGETS, (1, 2, 3, 5, 8, 12), _UP)
    ]
    every = [*_WHOLE, *climbs]
    step = len(every) / count
    return [every[int(place * step)] for place in range(count)]


def snapshot(folder: Path, but: tuple[str, ...]) -> dict[str, str]:
    """Return the hash of every file below ``folder``, without those whose path holds one of
    ``but``.
    """
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(word in str(path) for word in but)
    }


def walk(server: Server, outside: Path, secret: str, count: int) -> dict[str, float]:
    """Send ``count`` names to every route that takes one.

    ``outside`` holds a whole bundle and a file with ``secret`` that no answer may show; nothing of
    it may change, and no file may appear.
    """
    kept = ("serve.db", "answers", "server.log")
    before = snapshot(outside, kept)
    requests = leaks = failures = loaded = 0
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    for name in names(count):
        path = quote(name, safe="%/\\;:~$`.")
        body = json.dumps({"query": "tent", "model": name, "history": [name], "k": 1})
        item = json.dumps({"items": [{"item_id": name[:200], "title": "t", "image_url": name}]})
        event = {"event_id": name[:200], "request_id": name[:200], "item_id": name[:200]}
        events = json.dumps({"events": [event | {"action": "click", "user_id": name[:200]}]})
        for method, target, sent in (
            ("GET", f"/page/{path}", ""),
            ("GET", f"/{path}", ""),
            ("POST", f"/v1/bundles/{path}/load", ""),
            ("POST", f"/v1/bundles/{path}/activate", ""),
            ("POST", f"/v1/explain/{path}", body),
            ("POST", "/v1/search", body),
            ("DELETE", f"/v1/users/{path}", ""),
            ("PUT", "/v1/items", item),
            ("POST", "/v1/events", events),
        ):
            headers = bearer("boss") | {"Content-Type": "application/json"}
            connection.request(method, target, sent or None, headers)
            reply = connection.getresponse()
            text = reply.read().decode("utf-8", "replace")
            requests += 1
            failures += reply.status >= 500
            leaks += secret in text or "root:x:" in text
            loaded += "/bundles/" in target and reply.status == 200
    connection.close()
    after = snapshot(outside, kept)
    changed = {*before.items()} ^ {*after.items()}
    return {
        "path_names": count,
        "path_requests": requests,
        "path_failures": failures,
        "path_reads_outside": leaks,
        "path_writes_outside": len(changed),
        "path_bundles_loaded": loaded,
    }
