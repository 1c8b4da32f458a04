"""A warm start with other settings than its codebooks were fitted with: refused, with both values and the next step."""

import numpy as np
import pytest
from toy_stages import config

from sidar.artifacts import write_artifact
from sidar.config import SidConfig
from sidar.data import build as build_data
from sidar.data import toy
from sidar.sid import build
from sidar.sid.continued import check_settings


def folder_of(tmp_path, sid, sizes=(8, 4, 4)):
    """An SID folder whose manifest says that it was fitted with the settings ``sid``."""
    with write_artifact(tmp_path / "sid", "sid", config={"seed": 0, "warm_start": None, "sid": sid}) as draft:
        draft.shapes["codebook_sizes"] = list(sizes)
    return tmp_path / "sid"


def made(**sid):
    return SidConfig.model_validate(sid)


@pytest.mark.parametrize(
    ("then", "now", "said"),
    [
        ({}, {"method": "rqvae"}, r"\(sid\.method: 'rqkmeans' there, 'rqvae' here\)"),
        ({}, {"view": "query"}, "sid.view: 'item' there, 'query' here"),
        ({}, {"levels": 4}, "sid.levels: 3 there, 4 here"),
        ({}, {"items_per_sid": 1.1}, "sid.items_per_sid: 1.3 there, 1.1 here"),
        ({}, {"codebook_sizes": [16, 8, 4]}, r"sid.codebook_sizes: None there, \[16, 8, 4\] here"),
        ({}, {"category_first": True}, "sid.category_first: False there, True here"),
        ({"method": "cqsid"}, {"method": "cqsid", "cqsid": {"gamma": 0.1}}, "sid.cqsid.gamma: 0.001 there, 0.1 here"),
        ({"method": "sarq"}, {"method": "sarq", "iterations": 5}, "sid.iterations: 20 there, 5 here"),
        (
            {"method": "sarq", "sarq": {"base": "acrq"}},
            {"method": "sarq", "sarq": {"base": "acrq"}, "acrq": {"extension": 0.5}},
            "sid.acrq.extension: 0.125 there, 0.5 here",
        ),
        (
            {"method": "table", "table": "/here/old.json"},
            {"method": "table", "table": "/here/new.json"},
            "sid.table.path: 'old.json' there, 'new.json' here",
        ),
    ],
)
def test_what_codebooks_depend_on_may_not_change(tmp_path, then, now, said):
    folder = folder_of(tmp_path, made(**then).model_dump(mode="json"))
    check_settings(folder, made(**then))
    with pytest.raises(ValueError, match=said + r".*docs/lifecycle\.md"):
        check_settings(folder, made(**now))


def test_what_they_do_not_depend_on_may(tmp_path):
    folder = folder_of(tmp_path, made().model_dump(mode="json"))
    for free in (
        {"keep_margin": 0.3, "reference": 0.0},
        {"rqvae": {"steps": 5}},  # another method's section
        {"codebook_sizes": [8, 4, 4]},  # what the automatic sizes came to
    ):
        check_settings(folder, made(**free))
    stated = folder_of(tmp_path / "stated", made(codebook_sizes=[8, 4, 4], levels=3).model_dump(mode="json"))
    check_settings(stated, made())
    watched = folder_of(tmp_path / "watched", made(method="rqvae").model_dump(mode="json"))
    check_settings(watched, made(method="rqvae", rqvae={"log_every": 7}))


def test_a_bundle_of_an_earlier_version_is_not_refused_for_options_that_it_did_not_know(tmp_path):
    known = ("method", "levels", "codebook_sizes", "items_per_sid", "iterations", "init", "restarts", "sample")
    old = {name: value for name, value in made().model_dump(mode="json").items() if name in known}
    folder = folder_of(tmp_path, old | {"gone_since": 1})
    check_settings(folder, made())
    with pytest.raises(ValueError, match=r"sid\.view: 'item' there, 'query' here"):
        check_settings(folder, made(view="query"))
    check_settings(tmp_path / "no manifest", made(method="rqvae"))


def test_the_stage_refuses_the_other_view_of_the_same_towers(tmp_path):
    """Both views have one width and one fingerprint, so nothing else would notice."""
    toy.write_inputs(tmp_path / "inputs")
    cfg = config(tmp_path / "inputs")
    build_data(cfg, tmp_path / "data")
    (tmp_path / "embed").mkdir()
    for seed, name in enumerate(("items", "items_query")):
        vectors = np.random.default_rng(seed).standard_normal((64, 6)).astype(np.float32)
        np.save(tmp_path / "embed" / f"{name}.npy", vectors)
    cfg.sid.codebook_sizes = [8, 4, 4]
    stated = {"sid": cfg.sid.model_dump(mode="json")}
    with write_artifact(tmp_path / "bundle" / "sid", "sid", config=stated) as draft:
        draft.shapes |= build(cfg, tmp_path / "data", tmp_path / "embed", draft.path)["shapes"]
    cfg.warm_start = str(tmp_path / "bundle")
    (tmp_path / "again").mkdir()
    build(cfg, tmp_path / "data", tmp_path / "embed", tmp_path / "again")
    cfg.sid.view = "query"
    with pytest.raises(ValueError, match=r"sid\.view: 'item' there, 'query' here.*fit anew without --from"):
        build(cfg, tmp_path / "data", tmp_path / "embed", tmp_path / "again")
