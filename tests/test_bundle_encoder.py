"""A bundle that needs its encoder holds it: neither another working folder nor a new training takes
it away.
"""

import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
from shop import write_stages
from tiny_encoder import save_tiny_encoder

from sidar import Retriever, pipeline
from sidar.config import EmbedConfig, load_config
from sidar.data import toy
from sidar.embed import item_texts, load_embedder
from sidar.pipeline.compact import compact
from sidar.pipeline.refresh import encode
from sidar.serve.bundle import BundleSources, build_bundle, open_bundle
from sidar.serve.bundle.encoder import open_vectors
from sidar.types import Catalogue

WEIGHT = {"weight": 2.0}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Two encoders of one shape: the second is what a new training leaves."""
    return [
        save_tiny_encoder(tmp_path_factory.mktemp("encoders") / str(seed), seed) for seed in (0, 1)
    ]


@pytest.fixture
def run(tmp_path, tiny):
    """A run whose vectors the encoder in ``dense/model`` made; its last item is retired."""
    whole = toy.catalogue()
    alive = pa.array(np.arange(len(whole)) < len(whole) - 1)
    place = whole.table.schema.get_field_index("alive")
    catalogue = Catalogue(
        whole.table.set_column(place, whole.table.schema.field("alive"), alive), whole.lineage
    )
    run = write_stages(tmp_path / "runs/shop", catalogue)
    model = shutil.copytree(tiny[0], run / "dense/model")
    embedder = load_embedder(EmbedConfig(model=str(model)), "cpu")
    about = {
        "model": str(model),
        "fingerprint": embedder.fingerprint,
        "max_tokens": 128,
        "fields": ["title"],
    }
    (run / "embed/embedder.json").write_text(json.dumps(about))
    np.save(run / "embed/items.npy", embedder.encode(item_texts(whole, ["title"])))
    return run


def bundled(run, name="bundle", rerank=WEIGHT):
    parts = {part: run / part for part in ("data", "embed", "sid", "index")}
    sources = BundleSources(**parts, model=run / "sft/model", config={}, label="sft", rerank=rerank)
    build_bundle(run / name, sources)
    return run / name


def answers(bundle):
    found = Retriever.load(bundle, "cpu", precision="fp32", verify=True).search("bath towel", k=8)
    assert all(hit.cosine is not None for hit in found)
    return [(hit.item_id, hit.cosine) for hit in found]


def test_a_bundle_searches_when_the_folder_of_its_encoder_is_gone(run, tmp_path, monkeypatch):
    bundle = bundled(run)
    before = answers(bundle)
    about = json.loads((bundle / "embed/embedder.json").read_text())
    assert about["encoder"] == "encoder"  # beside it
    moved = tmp_path / "elsewhere/moved"
    shutil.copytree(bundle, moved)
    shutil.rmtree(tmp_path / "runs")
    monkeypatch.chdir(moved.parent)
    assert answers("moved") == before
    weights = next(moved.glob("embed/encoder/**/model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match=r"model\.safetensors is missing or differs"):
        open_bundle(moved, verify=True)


def test_a_path_that_follows_the_working_folder_is_copied_as_well(run, tmp_path, monkeypatch):
    file = run / "embed/embedder.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model": "runs/shop/dense/model"}))
    monkeypatch.chdir(tmp_path)
    bundle = bundled(run)
    monkeypatch.chdir(tmp_path.parent)
    answers(bundle)


def test_what_is_made_from_a_bundle_carries_the_encoder_on(run, tmp_path, monkeypatch):
    bundle = bundled(run)
    before = answers(bundle)
    shutil.rmtree(run / "dense")
    compact(bundle, tmp_path / "small")
    assert answers(tmp_path / "small") == before
    # the stages of "today" are there
    monkeypatch.setattr(pipeline, "run", lambda *args, **options: {})
    shutil.copytree(run, run.parent / "today", symlinks=True)
    cfg = load_config(
        None, [f"runs={run.parent}", "name=today", f"embed.model={run / 'dense/model'}"]
    )
    assert answers(encode(cfg, bundle, tmp_path / "encoded")) == before


def test_only_bundles_that_need_a_folder_copy_it(run):
    plain = bundled(run, "plain", rerank=None)
    assert not (plain / "embed/encoder").exists()
    config = run / "sft/model/config.json"
    was = config.read_text()
    config.unlink()  # linked by the bundle
    # a model that reads sentence vectors
    config.write_text(json.dumps(json.loads(was) | {"geometry": 16}))
    reading = bundled(run, "reading", rerank=None)
    assert (reading / "embed/encoder").is_dir()
    assert not (reading / "embed/items.npy").exists()
    assert open_vectors(reading).read(["towel"]).shape == (1, 16)
    file = run / "embed/embedder.json"
    about = json.loads(file.read_text())
    file.write_text(json.dumps(about | {"model": "hashing:16", "fingerprint": "hashing-1-16"}))
    named = bundled(run, "named")
    assert sorted(each.name for each in (named / "embed").iterdir()) == [
        "embedder.json",
        "items.npy",
        "manifest.json",
    ]
    assert open_vectors(named).read(["towel"]).shape == (1, 16)


def test_an_encoder_that_is_gone_or_was_trained_since_is_refused(run, tiny):
    shutil.rmtree(run / "dense/model")
    with pytest.raises(
        ValueError, match=r"dense/model' that made the vectors .* is not there any more"
    ):
        bundled(run)
    shutil.copytree(tiny[1], run / "dense/model")
    with pytest.raises(ValueError, match=r"dense/model' \(.*the one here is .*embed again"):
        bundled(run)
    assert not (run / "bundle").exists()


def test_a_bundle_from_before_the_copy_loads_the_folder_that_it_names(run):
    bundle = bundled(run)
    before = answers(bundle)
    shutil.rmtree(bundle / "embed/encoder")
    (bundle / "embed/embedder.json").write_text((run / "embed/embedder.json").read_text())
    (bundle / "manifest.json").unlink()
    found = Retriever.load(bundle, "cpu", precision="fp32").search("bath towel", k=8)
    assert [(hit.item_id, hit.cosine) for hit in found] == before
