"""The whole way round: search, click, daily update, a changed memory, and `sidar ab` over both
buckets.
"""

import hashlib
import shutil

from fastapi.testclient import TestClient
from fused_shop import QUERY, SALT
from typer.testing import CliRunner

from sidar import Retriever
from sidar.cli import app
from sidar.config.serve import ExperimentConfig, KeyConfig, ServeConfig
from sidar.serve import create_app
from sidar.serve.http.app import open_log

KEY = KeyConfig(name="w", sha256=hashlib.sha256(b"write").hexdigest(), role="write")


def run(*arguments):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_what_is_clicked_today_is_answered_tomorrow_and_read_by_the_experiment(
    shop, served, tmp_path
):
    shutil.copyfile(shop / "runs/shop/memory.key", tmp_path / "memory.key")
    bundle = shutil.copytree(shop / "runs/shop/bundle", tmp_path / "bundle")
    log = tmp_path / "log"
    config = ServeConfig(
        store=str(tmp_path / "serve.db"),
        answers_log=str(log),
        keys=[KEY],
        experiment=ExperimentConfig(name="round", shares={"a": 1, "b": 1}),
    )
    last = served.search(QUERY, k=64)[-1].item_id
    application = create_app(served, config=config, log=open_log(config, SALT))
    headers = {"Authorization": "Bearer write"}
    with TestClient(application, headers=headers) as client:
        for n in range(12):
            asked = {"query": QUERY, "k": 5, "user_id": f"user {n}"}
            answer = client.post("/v1/search", json=asked).json()
            assert answer["hits"][0]["channels"]
            click = {
                "event_id": f"e{n}",
                "request_id": answer["request_id"],
                "item_id": last,
                "action": "order" if n % 2 else "click",
                "query": QUERY,
                "user_id": f"user {n}",
                "bucket": answer["bucket"],
            }
            assert client.post("/v1/events", json={"events": [click]}).json()["accepted"] == 1

    # the files hold pseudonyms already
    read = [f"events.path={log}", "privacy.hash_users=false"]
    run("memory", "update", "--bundle", bundle, "-c", shop / "sidar.yaml", *read)
    best = Retriever.load(bundle, precision="fp32").search(QUERY, k=1)[0]
    assert best.item_id == last
    assert "memory" in best.channels
    told = run(
        *("ab", "-c", shop / "sidar.yaml", "--events", log, "--buckets", "a,b"),
        *("--experiment", "round", "--shares", "a=50,b=50", "--out", tmp_path / "ab", *read[1:]),
    )
    assert "a" in told
    assert (tmp_path / "ab" / "ab.json").is_file()
