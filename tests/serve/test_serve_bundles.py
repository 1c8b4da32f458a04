"""Bundles are exchanged while the server answers: whole, back again, and only those it may load."""

import hashlib
import shutil
import threading

import pytest
from fastapi.testclient import TestClient
from shop import write_bundle, write_stages

from sidar import Retriever
from sidar.config import load_config
from sidar.config.serve import KeyConfig, ServeConfig
from sidar.serve import create_app

BOSS = KeyConfig(name="boss", sha256=hashlib.sha256(b"boss").hexdigest(), role="admin")
HEADERS = {"Authorization": "Bearer boss"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    runs = [write_stages(tmp_path_factory.mktemp(f"run{seed}"), seed=seed) for seed in range(3)]
    return {f"day{n}": str(write_bundle(run)) for n, run in enumerate(runs)}


@pytest.fixture
def client(folders):
    config = ServeConfig(keys=[BOSS], bundles=folders)
    first = Retriever.load(folders["day0"])
    with TestClient(create_app(first, config=config), headers=HEADERS) as client:
        yield client


def states(listed):
    return {bundle["name"]: bundle["state"] for bundle in listed["bundles"]}


def searched(client):
    answer = client.post("/v1/search", json={"query": "tent", "k": 3}).json()
    return answer["bundle"], [hit["item_id"] for hit in answer["hits"]]


def test_a_bundle_is_loaded_activated_and_taken_back(client, folders):
    listed = client.get("/v1/bundles").json()
    assert (listed["active"], listed["previous"]) == ("sft", None)
    assert states(listed) == {"day0": "known", "day1": "known", "day2": "known", "sft": "active"}
    first = searched(client)
    loaded = client.post("/v1/bundles/day1/load").json()
    assert states(loaded)["day1"] == "loaded"
    assert searched(client) == first
    exchanged = client.post("/v1/bundles/day1/activate").json()
    assert (exchanged["active"], exchanged["previous"]) == ("day1", "sft")
    second = searched(client)
    want = Retriever.load(folders["day1"])
    assert second == (want.hash, [hit.item_id for hit in want.search("tent", 3)])
    assert second[0] != first[0]
    assert client.get("/v1/info").json()["models"][0]["bundle"] == second[0]
    back = client.post("/v1/bundles/rollback").json()
    assert (back["active"], back["previous"]) == ("sft", "day1")
    assert searched(client) == first
    # an activated one that is not loaded is loaded first; the one before last is let go
    third = client.post("/v1/bundles/day2/activate").json()
    assert states(third) == {"day0": "known", "day2": "active", "day1": "known", "sft": "previous"}


def test_exchanges_under_load_fail_nothing_and_mix_nothing(client, folders):
    hashes = {Retriever.load(folder).hash for folder in folders.values()}
    wanted = {searched(client)[0]: searched(client)[1]}
    for name in ("day1", "day2"):
        client.post(f"/v1/bundles/{name}/activate")
        bundle, items = searched(client)
        wanted[bundle] = items
    assert set(wanted) == hashes
    stop, wrong, answered = threading.Event(), [], []

    def search():
        while not stop.is_set():
            reply = client.post("/v1/search", json={"query": "tent", "k": 3})
            if reply.status_code != 200:
                wrong.append(reply.text)
                continue
            answer = reply.json()
            items = [hit["item_id"] for hit in answer["hits"]]
            answered.append(answer["bundle"])
            if items != wanted[answer["bundle"]]:
                wrong.append(answer)

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for swap in range(6):
        name = f"day{swap % 3}"
        assert client.post(f"/v1/bundles/{name}/activate").json()["active"] == name
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(set(answered)) > 1


@pytest.mark.parametrize("name", ["day9", "../day1", "%2e%2e%2fday1", "/etc", "day1%00", "sft"])
def test_no_folder_but_those_of_the_config_can_be_loaded(client, name):
    reply = client.post(f"/v1/bundles/{name}/load")
    assert reply.status_code in (404, 405, 422)
    assert reply.json()["error"]
    assert client.get("/v1/bundles").json()["active"] == "sft"


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "no weights"])
def test_a_damaged_bundle_is_refused_by_name_and_the_old_one_goes_on(folders, tmp_path, damage):
    broken = tmp_path / "broken"
    shutil.copytree(folders["day1"], broken)
    weights = broken / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    if damage == "truncated":
        weights.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        content[-1] ^= 1
        weights.write_bytes(content)
    elif damage == "no weights":
        weights.unlink()
    else:
        shutil.rmtree(broken)
    config = ServeConfig(keys=[BOSS], bundles={"broken": str(broken)})
    app = create_app(Retriever.load(folders["day0"]), config=config)
    with TestClient(app, headers=HEADERS) as client:
        before = searched(client)
        reply = client.post("/v1/bundles/broken/activate")
        assert reply.status_code == 422
        named = str(broken) if damage == "missing" else "model.safetensors"
        assert named in reply.json()["error"]
        assert searched(client) == before
        assert client.get("/v1/bundles").json()["active"] == "sft"
        rollback = client.post("/v1/bundles/rollback")
        assert rollback.status_code == 422
        assert "nothing was exchanged" in rollback.json()["error"]


def test_folders_of_the_config_are_relative_to_its_file(tmp_path):
    file = tmp_path / "sidar.yaml"
    file.write_text("serve: {bundles: {a: runs/a/bundle, b: /b}}\n")
    bundles = load_config(file).serve.bundles
    assert bundles == {"a": str(tmp_path / "runs/a/bundle"), "b": "/b"}
