"""A warm start with other settings than its codebooks were fitted with: refused, with both values
and the next step.
"""

import re
from types import SimpleNamespace

import numpy as np
import pytest
from toy_stages import config

from sidar.artifacts import write_artifact
from sidar.config import Part, SidConfig
from sidar.data import build as build_data
from sidar.data import toy
from sidar.sid import build
from sidar.sid.lifecycle.continued import asked, check_settings


def folder_of(tmp_path, sid, sizes=(8, 4, 4)):
    """An SID folder whose manifest says that it was fitted with the settings ``sid``."""
    with write_artifact(
        tmp_path / "sid", "sid", config={"seed": 0, "warm_start": None, "sid": sid}
    ) as draft:
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
        (
            {"method": "cqsid"},
            {"method": "cqsid", "cqsid": {"gamma": 0.1}},
            "sid.cqsid.gamma: 0.001 there, 0.1 here",
        ),
        (
            {"method": "sarq"},
            {"method": "sarq", "iterations": 5},
            "sid.iterations: 20 there, 5 here",
        ),
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


def refused(folder, config):
    """The options that ``check_settings`` names in its refusal; empty where it goes on."""
    try:
        check_settings(folder, config)
    except ValueError as error:
        return set(re.findall(r"(sid\.[\w.]+): \S+ there", str(error).replace(", ", ",")))
    return set()


def test_what_they_do_not_depend_on_may(tmp_path):
    folder = folder_of(tmp_path, made().model_dump(mode="json"))
    before = asked(made().model_dump(mode="json"))
    for free in (
        {"keep_margin": 0.3, "reference": 0.0},
        {"rqvae": {"steps": 5}},  # another method's section
    ):
        assert asked(made(**free).model_dump(mode="json")) == before
        assert refused(folder, made(**free)) == set()
    # what the automatic sizes came to
    assert refused(folder, made(codebook_sizes=[8, 4, 4])) == set()
    assert refused(folder, made(codebook_sizes=[8, 4, 2])) == {"sid.codebook_sizes"}
    stated = folder_of(
        tmp_path / "stated", made(codebook_sizes=[8, 4, 4], levels=3).model_dump(mode="json")
    )
    assert refused(stated, made()) == set()
    assert refused(stated, made(iterations=5)) == {"sid.iterations"}
    watched = folder_of(tmp_path / "watched", made(method="rqvae").model_dump(mode="json"))
    assert refused(watched, made(method="rqvae", rqvae={"log_every": 7})) == set()
    assert refused(watched, made(method="rqvae", rqvae={"log_every": 7, "beta": 0.5})) == {
        "sid.rqvae.beta"
    }


#: Options of `sid` that may change under a warm start, by what they decide.
FREE = {"keep_margin", "reference"}  # the refresh and its alarms
WATCHED = {"log_every", "checkpoint_every", "collapse_below"}  # how a fit is watched


@pytest.mark.parametrize(
    "method", ["rqkmeans", "rqvae", "cqsid", "acrq", "sarq", "table", "random"]
)
def test_each_option_is_bound_where_its_method_reads_it(tmp_path, method):
    config = made(method=method, sarq={"base": "rqvae"}, table="/here/ids.json")
    folder = folder_of(tmp_path, config.model_dump(mode="json"))
    sections = {method, "rqvae"} if method == "sarq" else {method}
    of_kmeans = {"iterations", "init", "restarts", "sample", "balance_last", "category_first"}
    of_table = {"table.path"} if method == "table" else set()
    for name in SidConfig.model_fields:
        value = getattr(config, name)
        if isinstance(value, Part):
            for inner in type(value).model_fields:
                other = config.model_copy(update={name: value.model_copy(update={inner: "other"})})
                bound = (
                    name in sections - {"table"} and inner not in WATCHED
                ) or f"{name}.{inner}" in of_table
                assert refused(folder, unchecked(other)) == (
                    {f"sid.{name}.{inner}"} if bound else set()
                )
        elif name not in ("method", "codebook_sizes"):
            bound = name == "view" or (name in of_kmeans and method == "rqkmeans")
            bound |= name in ("levels", "items_per_sid") and method != "table"
            other = config.model_copy(update={name: "other"})
            assert refused(folder, unchecked(other)) == (
                {f"sid.{name}"} if bound and name not in FREE else set()
            )


def unchecked(config):
    """Stands for ``config``, whose changed option has a value that it may not have, without
    pydantic's warning.
    """
    return SimpleNamespace(model_dump=lambda mode: config.model_dump(mode=mode, warnings=False))


def test_a_bundle_of_an_earlier_version_is_not_refused_for_options_that_it_did_not_know(tmp_path):
    known = (
        "method",
        "levels",
        "codebook_sizes",
        "items_per_sid",
        "iterations",
        "init",
        "restarts",
        "sample",
    )
    old = {name: value for name, value in made().model_dump(mode="json").items() if name in known}
    folder = folder_of(tmp_path, old | {"gone_since": 1})
    assert refused(folder, made()) == set()
    with pytest.raises(ValueError, match=r"sid\.view: 'item' there, 'query' here"):
        check_settings(folder, made(view="query"))
    assert refused(tmp_path / "no manifest", made(method="rqvae")) == set()


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
    with pytest.raises(
        ValueError, match=r"sid\.view: 'item' there, 'query' here.*fit anew without --from"
    ):
        build(cfg, tmp_path / "data", tmp_path / "embed", tmp_path / "again")
