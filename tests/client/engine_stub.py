"""The two routes of OpenSearch and Elasticsearch that the recall example uses, in memory.

Requests and answers have the shape of both engines' references (`POST /{index}/_search`, `POST
/{index}/_mget`); what the example must not send is refused with 400, as they do.
"""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SHARDS = {"total": 1, "successful": 1, "skipped": 0, "failed": 0}


class Engine:
    """Documents by id; its query counts the words of ``multi_match`` that a title has."""

    def __init__(self, index, documents):
        self.index, self.documents, self.asked = index, documents, []

    def answer(self, path, body):
        """(status, answer) to a request."""
        self.asked.append((path, body))
        index, _, route = path.strip("/").partition("/")
        if index != self.index:
            return 404, {"error": {"type": "index_not_found_exception"}, "status": 404}
        routes = {"_search": self.search, "_mget": self.mget}
        return routes[route](body)

    def search(self, body):
        assert set(body) == {"size", "query"}
        query = body["query"]["bool"]
        (text,) = query["must"]
        words = set(text["multi_match"]["query"].lower().split())
        assert text["multi_match"]["fields"]
        scores = {
            key: float(len(words & set(document["title"].lower().split())))
            for key, document in self.documents.items()
            if all(passes(document, each) for each in query["filter"])
        }
        best = sorted((key for key in scores if scores[key]), key=lambda key: -scores[key])
        hits = [
            {
                "_index": self.index,
                "_id": key,
                "_score": scores[key],
                "_source": self.documents[key],
            }
            for key in best[: body["size"]]
        ]
        found = {"total": {"value": len(best), "relation": "eq"}, "hits": hits}
        return 200, {"took": 1, "timed_out": False, "_shards": SHARDS, "hits": found}

    def mget(self, body):
        if not body["ids"]:
            reason = "Validation Failed: 1: no documents to get;"
            return 400, {"error": {"reason": reason}, "status": 400}
        return 200, {"docs": [self.document(key) for key in body["ids"]]}

    def document(self, key):
        named = {"_index": self.index, "_id": key}
        if key not in self.documents:
            return named | {"found": False}
        return named | {"_version": 1, "found": True, "_source": self.documents[key]}


def passes(document, condition):
    """Whether a document passes one condition of ``filter``; only ``range`` is known."""
    ((column, bounds),) = condition["range"].items()
    assert set(bounds) == {"lt"}
    return document[column] is not None and document[column] < bounds["lt"]


@contextmanager
def serving(engine):
    """The address at which ``engine`` answers."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, answer = engine.answer(self.path, body)
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
