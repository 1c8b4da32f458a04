"""SFT and alignment of a model that reads sentence vectors, on the toy shop."""

import json

import numpy as np
import pytest
import torch
from toy_stages import config

from sidar.config import EmbedConfig
from sidar.data import open_dataset
from sidar.decode import beam_search
from sidar.embed import HashingEmbedder, item_texts
from sidar.embed.cache import VectorCache
from sidar.index import PrefixIndex
from sidar.lm import SidLM
from sidar.lm.scorer import LmScorer
from sidar.sid import load_sids, load_tokenizer
from sidar.train import train_align, train_sft
from sidar.train.vectors import Reader
from sidar.types import Prompt

HASHING = EmbedConfig(model="hashing:32")


def configured(shop, **sections):
    cfg = config(shop / "inputs", **{"lm": {"geometry": True}, **sections})
    cfg.embed = HASHING
    return cfg


@pytest.fixture(scope="module")
def embed_folder(shop, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "embed"
    folder.mkdir()
    data = open_dataset(shop / "data")
    np.save(
        folder / "items.npy",
        HashingEmbedder(32).encode(item_texts(data.catalogue, ["title", "category"])),
    )
    return folder


@pytest.fixture(scope="module")
def trained(shop, embed_folder):
    out = embed_folder.parent / "sft"
    cfg = configured(shop, sft={"steps": 24, "validate_every": 12})
    return out, train_sft(cfg, shop / "data", embed_folder, shop / "sid", out, progress=False)


def test_sft_moves_every_part_and_remembers_the_logs_queries(shop, embed_folder, trained):
    out, report = trained
    model = SidLM.from_pretrained(out / "model")
    start = SidLM.build(
        configured(shop).lm, load_sids(shop / "sid" / "sids.parquet", _ids(shop)), _books(shop)
    )
    for name, before in start.named_parameters():
        if name.startswith(("geometry", "heads")):
            assert not torch.equal(before, model.get_parameter(name)), name
    shards = list(
        (embed_folder.parent / ".embed.cache").glob("queries-hashing-1-32-fp32/*.safetensors")
    )
    assert len(shards) == 1
    # 64 items: the geometry alone finds some of them at once
    assert report["final"]["recall@8"] > 0.2


def _ids(shop):
    return open_dataset(shop / "data").catalogue.item_ids


def _books(shop):
    return load_tokenizer(shop / "sid").codebooks_


def test_a_fresh_model_finds_what_quantised_dense_finds(shop):
    """Through the stage's own parts: builder, reader, scorer, index."""
    from sidar.baselines import QuantisedDense, reconstruct

    sids = load_sids(shop / "sid" / "sids.parquet", _ids(shop))
    index = PrefixIndex.build(sids)
    model = SidLM.build(configured(shop).lm, sids, _books(shop)).eval()
    model.prompts.reader = HashingEmbedder(32).encode
    said = [Prompt("steel water bottle"), Prompt("bath towel"), Prompt("camping tent")]
    beams = beam_search(LmScorer(model), model.prompts.encode_batch(said, sids), index, len(index))
    dense = QuantisedDense(
        reconstruct(_books(shop), index.table), index.expand_with_source, HashingEmbedder(32)
    )
    assert beams.sids[:, :20].tolist() == dense.sid_ranking(said, 20)[0].tolist()


@pytest.mark.parametrize("name", ["raddpo", "dpo"])
def test_alignment_starts_from_it(shop, embed_folder, trained, tmp_path, name):
    cfg = configured(shop, align={"objective": name})
    folders = (shop / "data", shop / "sid", trained[0], tmp_path / cfg.align.folder)
    train_align(cfg, *folders, progress=False, embed_folder=embed_folder)
    records = [
        json.loads(line)
        for line in (tmp_path / f"align-{name}" / "log.jsonl").read_text().splitlines()
    ]
    first = next(r for r in records if r["kind"] == "valid")
    assert first["nll"] == pytest.approx(trained[1]["final"]["nll"], abs=1e-4)
    cfg.preference.negatives = "beam"
    if name == "raddpo":
        # without an embed folder: texts are read
        train_align(cfg, *folders[:3], tmp_path / "beam", progress=False)


def test_interrupted_training_goes_on_to_the_same_weights(
    shop, embed_folder, tmp_path, monkeypatch
):
    from sidar.train import loop

    cfg, original = configured(shop), loop.LmTraining._step
    where = (shop / "data", embed_folder, shop / "sid")
    train_sft(cfg, *where, tmp_path / "whole", progress=False)

    def dies(self, step):
        if step == 9:
            raise KeyboardInterrupt
        return original(self, step)

    monkeypatch.setattr(loop.LmTraining, "_step", dies)
    with pytest.raises(KeyboardInterrupt):
        train_sft(cfg, *where, tmp_path / "cut", work=tmp_path / ".work", progress=False)
    monkeypatch.setattr(loop.LmTraining, "_step", original)
    train_sft(cfg, *where, tmp_path / "cut", work=tmp_path / ".work", progress=False)
    whole, cut = (
        SidLM.from_pretrained(tmp_path / name / "model").state_dict() for name in ("whole", "cut")
    )
    assert all(torch.equal(whole[n], cut[n]) for n in whole)


def test_another_encoder_is_refused(shop, tmp_path):
    cfg = configured(shop)
    cfg.embed = EmbedConfig(model="hashing:16")
    with pytest.raises(ValueError, match="gives 16 dimensions, the model reads 32"):
        train_sft(cfg, shop / "data", None, shop / "sid", tmp_path / "sft", progress=False)


def test_a_reader_encodes_known_texts_once_for_all_runs(tmp_path):
    asked = []

    class Spy(HashingEmbedder):
        def encode(self, texts, batch_size=32):
            asked.extend(texts)
            return super().encode(texts, batch_size)

    want = HashingEmbedder(8).encode(["mug", "tent", "mug"])
    first = Reader(Spy(8), VectorCache(tmp_path, 8), ["mug", "cup", "mug"])
    assert (first(["mug", "tent", "mug"]) == want).all()
    assert asked == ["mug", "cup", "tent"]
    again = Reader(Spy(8), VectorCache(tmp_path, 8), ["cup", "mug", "pan"])
    assert (again(["mug", "tent", "mug"]) == want).all()
    assert asked[3:] == ["pan", "tent"]
    assert (Reader(Spy(8), None, ["mug"])(["mug"]) == want[:1]).all()
