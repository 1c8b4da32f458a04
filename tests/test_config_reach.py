"""Every option of these sections reaches what it is named after: each is changed and seen where it
is used.

Options are changed in groups, so that a group costs two looks; each option is seen in a place of
its own.
"""

import hashlib
from dataclasses import dataclass, field
from types import SimpleNamespace

import field_shop
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from fused_shop import QUERY
from listed_systems import CATALOGUE, Channel, Writer, a_set, index, priors
from pydantic import BaseModel
from shop import write_stages

import sidar.lm.scorer
import sidar.serve.bundle
from sidar import Retriever
from sidar.answer.key import VARIABLE
from sidar.baselines import Bm25
from sidar.cli import service
from sidar.config import Config, load_config
from sidar.config.serve import KeyConfig, LimitsConfig
from sidar.data import build, open_dataset, toy
from sidar.data import stage as data_stage
from sidar.data.log import LogFacts
from sidar.embed import load_embedder
from sidar.evaluate import suite
from sidar.evaluate.measures.plugin_metrics import register_metric
from sidar.evaluate.perquery import PerQuery
from sidar.extensions import METRICS
from sidar.index import PrefixIndex
from sidar.pipeline import leave, stages
from sidar.pipeline.rows import answer_log, answer_rows, answering, systems
from sidar.pipeline.rows.generative import GenerativeSystem
from sidar.pipeline.rows.rerank import Reranked
from sidar.pipeline.runtime import folders
from sidar.serve.bundle import BundleSources, build_bundle

SECTIONS = ("privacy", "data", "split", "decode", "memory", "evaluate", "serve")


@dataclass(frozen=True)
class Group:
    """``changes``: {key: (another value, what is seen then)}; ``look(world, cfg)`` sees {key:
    something}.
    """

    look: object
    changes: dict
    base: dict = field(default_factory=dict)
    run: bool = False  # on top of the finished run's config


def keys_of(part, prefix=""):
    for name in type(part).model_fields:
        value = getattr(part, name)
        if isinstance(value, BaseModel):
            yield from keys_of(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def config_of(options, file=None):
    """A config with ``{"a.b": value}``, on top of a file."""
    raw = load_config(file).model_dump() if file else {"threads": 1}
    for key, value in options.items():
        *sections, name = key.split(".")
        part = raw
        for section in sections:
            part = part.setdefault(section, {})
        part[name] = value
    return Config.model_validate(raw)


# ------------------------------------------------------------------ data: a log of four days, four
# requests a day

DAY_US = field_shop.DAY * 1_000_000


class ReachedError(Exception):
    """Ends a stage where enough has been seen."""


def built(world, cfg):
    """The data stage over twelve items: report and requests."""
    folder = world.folder / f"data-{len(list(world.folder.iterdir()))}"
    folder.mkdir()
    rows = field_shop.log()
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    (folder / "events.csv").write_text("\n".join(lines) + "\n")
    cfg.catalogue.path, cfg.events.path = (
        str(field_shop.catalogue(folder)),
        str(folder / "events.csv"),
    )
    report = build(cfg, folder / "out")
    return report, pq.read_table(folder / "out" / "requests.parquet").to_pylist()


def look_at_windows(world, cfg):
    """The split that the data stage goes on with, of a log of four days that is not read; days
    count from 1.
    """
    day0, shares, splits = field_shop.START * 1_000_000, [], []
    facts = LogFacts(64, day0, day0 + 4 * DAY_US - 1, {}, 0)

    def cuts(duck, config, log, facts):
        shares.extend([config.valid_fraction, config.test_fraction])
        return day0 + 2 * DAY_US, day0 + 3 * DAY_US

    def keep_clicked(duck, cfg, catalogue, log, split):
        splits.append(split)
        raise ReachedError

    quarantine = SimpleNamespace(unread=[])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_stage, "load_catalogue", lambda duck, cfg, old: (None, quarantine))
        patch.setattr(
            data_stage, "validate_log", lambda duck, cfg, catalogue, out: (facts, quarantine)
        )
        patch.setattr(data_stage.health, "of_log", lambda *args: [])
        patch.setattr(data_stage, "cuts", cuts)
        patch.setattr(data_stage, "keep_clicked", keep_clicked)
        with pytest.raises(ReachedError):
            build(cfg, world.folder / "out")
    (split,) = splits
    valid, test = (
        tuple((moment - day0) / DAY_US + 1 for moment in one) for one in (split.valid, split.test)
    )
    return {
        "split.unit": split.unit,
        **dict.fromkeys(("split.test_days", "split.test_day", "split.test_from"), test),
        **dict.fromkeys(("split.valid_days", "split.valid_day"), valid),
        "split.test_fraction": shares[1:],
        "split.valid_fraction": shares[:1],
    }


def look_at_requests(world, cfg):
    """What reading hides, what training is not shown, and what a bundle that leaves
    is thinned by.
    """
    exported, related = [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_stage, "keep_related", lambda path, _: related.append(path.name))
        report, requests = built(world, cfg)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            leave, "export_bundle", lambda bundle, out, least, examples: exported.append(least)
        )
        leave.leave(cfg, world.folder / "gone")
    users = sorted({entry["user_id"] for entry in requests})
    trained = {entry["query"] for entry in requests if entry["split"] == "train"}
    return {
        "split.max_history": max(len(entry["history"]) for entry in requests),
        "split.history": related,
        "privacy.min_users": exported,
        "privacy.hash_users": users,
        "privacy.salt": users,
        "data.held_out": (report["requests"]["held_out_requests_dropped"], "item 0" in trained),
    }


# ------------------------------------------------------------------ decode: a bundle, and a row of
# the table


def look_at_decoding(world, cfg):
    """What the bundle answers with and what the table's row does: the same."""
    made, run = world.folder / "bundle", world.stages
    parts = {name: run / name for name in ("data", "embed", "sid", "index")} | {
        "model": run / "sft/model"
    }
    config = cfg.model_dump(mode="json", include={"decode"})
    build_bundle(made, BundleSources(**parts, config=config, label="m"))
    asked, precisions, scorer = {}, [], sidar.lm.scorer.LmScorer

    def scorer_of(model, precision):
        precisions.append(precision)
        return scorer(model, precision="fp32")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sidar.lm.scorer, "LmScorer", scorer_of)
        served = Retriever.load(made)
        sids, catalogue = served.sids, served.catalogue
        row = GenerativeSystem(
            "m", run / "sft/model", served.index, sids, catalogue, cfg.decode, "cpu"
        )
        shares = [
            None if one.shares is None else one.shares.log_share.tolist()
            for one in (served, row.retriever)
        ]
        assert shares[0] == shares[1]
        assert served.beam == row.retriever.beam
        assert precisions[0] == precisions[1]
        real = Retriever._decode

        def decode(self, scorer, tokens, plans):
            asked.update(width=plans[0].width, exact=plans[0].exact)
            return real(self, scorer, tokens, plans)

        patch.setattr(Retriever, "_decode", decode)
        row.beams([toy.judged("test").prompts[0]])
    assert asked["width"] == min(served.beam, len(served.index))
    assert asked["exact"] == served.exact
    return {
        "decode.beam": served.beam,
        **dict.fromkeys(
            ("decode.item_share", "decode.share_pseudo", "decode.share_temperature"), shares[0]
        ),
        "decode.exact": asked["exact"],
        "decode.precision": precisions[0],
    }


def shares_of(world, **how):
    """Log shares by hand: (n + pseudo) ** (1 / temperature) over the sum of the SID's items."""
    index = PrefixIndex.load(world.stages / "index")
    counts = np.expm1(index.prior)[index.rows] if index.counts is None else index.counts[index.rows]
    weight = (
        (counts + how.get("pseudo", 1.0)) ** (1 / how.get("temperature", 1.0))
        if how
        else np.ones(len(counts))
    )
    sid = np.repeat(np.arange(index.n_sids), np.diff(index.rows_start))
    return pytest.approx(np.log(weight / np.bincount(sid, weights=weight)[sid]).tolist(), abs=1e-5)


# ------------------------------------------------------------------ the answer and the report of a
# finished run


def look_at_memory(world, cfg):
    work = world.folder / "work"
    data = world.shop / "runs/shop/data"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(VARIABLE, raising=False)
        secret = answer_log.run_key(cfg)
    log = answer_log.read_log(cfg, data, secret, work)
    seen = {
        "memory.key_file": secret,
        "memory.debias": log.memory.facts.debias,
        "memory.requests": len(log.asked),
    }
    assert log.before.facts.debias == log.memory.facts.debias
    rows = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            answer_rows,
            "fitting_requests",
            lambda duck, requests, alive, most: rows.update(most=most) or log.asked,
        )
        patch.setattr(
            answer_rows,
            "run_key",
            lambda cfg: (world.shop / "runs/shop/memory.key").read_bytes().strip(),
        )
        embedder = load_embedder(cfg.embed, "cpu")
        inputs = folders(world.shop / "runs/shop", ("data", "embed", "answer"))
        answer_rows.answer_rows(cfg, inputs, {}, embedder, open_dataset(data).priors(), work)
    assert rows["most"] == cfg.memory.requests
    return seen


def look_at_the_stage(world, cfg):
    """What the stages `evaluate` and `answer` make of the config; nothing is scored."""
    reached = {}

    def run_suite(systems, sets, *args, **kwargs):
        reached.update(systems=systems, sets=sets, cfg=kwargs["cfg"])
        return {}

    def tune(self, sets, catalogue, queries):
        self.weight = 1.0
        return {"weight": 1.0}

    models, run = ("sft", "align-raddpo"), world.shop / "runs/shop"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(VARIABLE, raising=False)
        patch.setattr(suite, "run_suite", run_suite)
        patch.setattr(Bm25, "tune", lambda self, queries, objective: self)
        patch.setattr(Reranked, "tune", tune)
        real = systems.read_manifest
        best = SimpleNamespace(shapes={"best": {"step": 1}, "final": {"step": 2}})
        patch.setattr(
            systems, "read_manifest", lambda folder: best if folder.name in models else real(folder)
        )
        inputs = folders(run, ("data", "embed", "sid", "index", "answer", *models))
        stages.evaluate(cfg, inputs, world.folder, world.folder / "work")
    sets = {entry.name: entry for entry in reached["sets"]}
    assert reached["cfg"] is cfg
    return {
        "evaluate.sets": "mine" in sets,
        "evaluate.targets": sorted(name for name in sets if name.startswith("day7")),
        "evaluate.max_queries": max(
            len(entry) for name, entry in sets.items() if name.startswith("day7")
        ),
        "evaluate.prompts": any(
            prompt.history for entry in sets.values() for prompt in entry.prompts
        ),
        "evaluate.best": "sft-best" in reached["systems"],
        "evaluate.wide_beam": [
            one._decode.beam for name, one in reached["systems"].items() if name == "sft@33"
        ],
        "evaluate.systems": sorted(reached["systems"]),
        "decode.rerank": "raddpo+rerank" in reached["systems"],
    }


def look_at_the_fusion(world, cfg):
    actions = {"impression": 5, "click": 1, "cart": 0, "order": 0}
    return {"decode.fuse": answering.fuses(cfg, {"events": {"actions": actions}})}


def look_at_the_suite(world, cfg):
    """What the scoring of a report asks of its systems and its statistics."""
    out = world.folder / "report"
    out.mkdir(exist_ok=True)
    tests, valid = a_set("judged", [0] * 9), a_set("dev", [0] * 9)
    lists = {query: list(range(40)) for entry in (tests, valid) for query in entry.query_ids}
    systems = {
        "bm25": Channel("bm25", lists),
        "dense": Channel("dense", lists),
        "sft": Writer("sft", lists),
    }
    samples = []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("summarise", "paired_claims"):
            real = getattr(suite, name)
            patch.setattr(
                suite,
                name,
                lambda *a, real=real, **kw: samples.append(kw["samples"]) or real(*a, **kw),
            )
        suite.run_suite(
            systems, [tests], CATALOGUE, priors(), index(), out=out, cfg=cfg, tune_sets=[valid]
        )
    ((queries, seconds),) = systems["sft"].invalid_asked
    listed = PerQuery.read(out).get("judged", "bm25", "items/returned")[1]
    return {
        "evaluate.metrics": PerQuery.read(out).get("judged", "bm25", "item/first") is not None,
        "evaluate.invalid_queries": len(queries),
        "evaluate.invalid_seconds": seconds,
        "evaluate.tune_queries": sum(query.startswith("dev") for query in systems["bm25"].asked),
        "evaluate.bootstrap": set(samples),
        "evaluate.depth": (set(systems["bm25"].depths), listed.max()),
    }


A_KEY = KeyConfig(name="shop", sha256="0" * 64, role="write", per_minute=9)


def look_at_the_server(world, cfg):
    import uvicorn

    file, seen = world.folder / "serve.yaml", []
    file.write_text(yaml.safe_dump({"name": "x", **cfg.model_dump(mode="json", include={"serve"})}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sidar.serve.bundle, "open_bundle", lambda folder: SimpleNamespace(label="m"))
        patch.setattr(uvicorn, "run", lambda app, **options: seen.append(options))
        patch.setattr(sidar.serve, "create_app", lambda load, **options: seen.append(options))
        service.serve(config=file)
    created, started = seen
    # what each option does is tested in tests/serve; here, that the server is made with all of them
    given = dict(config_items(created["config"]))
    names = {"host": "host", "port": "port", "root_path": "root_path"}
    names |= {"drain_seconds": "timeout_graceful_shutdown"}
    given |= {name: started[argument] for name, argument in names.items()}
    for name in ("header_seconds", "stall_seconds"):
        given[f"limits.{name}"] = getattr(started["http"], name)
    return {f"serve.{name}": value for name, value in given.items()}


def config_items(part):
    """(name, value) of the options of a section, those of its sections included."""
    for name in keys_of(part):
        value = part
        for key in name.split("."):
            value = getattr(value, key)
        yield name, value


# ------------------------------------------------------------------ the groups


def hashed(salt, user):
    return hashlib.sha256(f"sidar user {salt}:{user}".encode()).hexdigest()[:16]


def log_shares(**how):
    return lambda world: shares_of(world, **how)


def file_of(name):
    return lambda world: str(world.folder / name)


def a_judged_file(world):
    return [
        {"name": "mine", "queries": file_of("mine.tsv")(world), "qrels": file_of("mine.tsv")(world)}
    ]


def a_held_out_file(world):
    return [{"queries": file_of("held.tsv")(world), "match": "exact"}]


#: What is changed together, and what is to be seen then; days of the four-day log are (first
#: moment, end).
GROUPS = [
    Group(look_at_windows, {"split.unit": ("fraction", "fraction")}),
    Group(look_at_windows, {"split.test_days": (2, (3, 5))}),
    Group(look_at_windows, {"split.valid_days": (2, (2, 4))}),
    Group(look_at_windows, {"split.test_from": ("2023-11-17", (3, 5))}),
    Group(look_at_windows, {"split.test_day": (3, (3, 4))}),
    Group(look_at_windows, {"split.valid_day": (2, (2, 3))}),
    Group(
        look_at_windows,
        {"split.test_fraction": (0.25, [0.25]), "split.valid_fraction": (0.5, [0.5])},
        base={"split.unit": "fraction"},
    ),
    Group(
        look_at_requests,
        {
            "split.max_history": (1, 1),
            "split.history": ("related", ["requests.parquet"]),
            "privacy.min_users": (4, [4]),
            "privacy.salt": ("pepper", sorted(hashed("pepper", f"u{n}") for n in range(4))),
            "data.held_out": (a_held_out_file, (2, False)),
        },
    ),
    Group(look_at_requests, {"privacy.hash_users": (False, ["u0", "u1", "u2", "u3"])}),
    Group(
        look_at_decoding,
        {
            "decode.beam": (5, 5),
            "decode.exact": (True, True),
            "decode.precision": ("bf16", "bf16"),
            "decode.item_share": ("uniform", log_shares()),
        },
    ),
    Group(look_at_decoding, {"decode.share_pseudo": (3.0, log_shares(pseudo=3.0))}),
    Group(look_at_decoding, {"decode.share_temperature": (2.0, log_shares(temperature=2.0))}),
    Group(look_at_the_fusion, {"decode.fuse": ("none", False)}),
    Group(
        look_at_memory,
        {
            "memory.key_file": (file_of("other.key"), b"another secret"),
            "memory.debias": ("ips", "ips"),
            "memory.requests": (7, 7),
        },
        run=True,
    ),
    Group(
        look_at_the_stage,
        {
            "evaluate.sets": (a_judged_file, True),
            "evaluate.targets": (["order"], ["day7-orders"]),
            "evaluate.max_queries": (3, 3),
            "evaluate.prompts": ("semantic", False),
            "evaluate.best": (True, True),
            "evaluate.wide_beam": (33, [33]),
            "decode.rerank": ("dense", True),
        },
        run=True,
    ),
    Group(
        look_at_the_stage, {"evaluate.systems": (["bm25", "dense"], ["bm25", "dense"])}, run=True
    ),
    Group(
        look_at_the_suite,
        {
            "evaluate.invalid_queries": (2, 2),
            "evaluate.invalid_seconds": (7.5, 7.5),
            "evaluate.tune_queries": (4, 4),
            "evaluate.bootstrap": (33, {33}),
            "evaluate.depth": (12, ({12}, 12)),
            "evaluate.metrics": (["first"], True),
        },
    ),
    Group(
        look_at_the_server,
        {
            "serve.host": ("0.0.0.0", "0.0.0.0"),
            "serve.port": (9, 9),
            "serve.root_path": ("/shop", "/shop"),
            "serve.workers": (2, 2),
            "serve.queue": (9, 9),
            "serve.batch": (9, 9),
            "serve.timeout_ms": (9, 9),
            "serve.drain_seconds": (9, 9),
            **{f"serve.limits.{name}": (9, 9) for name in LimitsConfig.model_fields},
            "serve.keys": ([A_KEY.model_dump()], [A_KEY]),
            "serve.read_key": (True, True),
            "serve.bundles": ({"a": "/bundle"}, {"a": "/bundle"}),
            "serve.store": (file_of("s.db"), file_of("s.db")),
            "serve.answers_log": (file_of("log"), file_of("log")),
            "serve.history": (9, 9),
            "serve.log.format": ("json", "json"),
            "serve.log.queries": (True, True),
            "serve.log.users": (True, True),
            "serve.otel.endpoint": ("http://c:4318", "http://c:4318"),
            "serve.otel.service": ("shop", "shop"),
            "serve.otel.content": (True, True),
            "serve.experiment.name": ("x", "x"),
            "serve.experiment.shares": ({"a": 1, "b": 2}, {"a": 1, "b": 2}),
            "serve.experiment.models": ({"b": "m"}, {"b": "m"}),
        },
    ),
]


@pytest.fixture(autouse=True)
def a_metric(monkeypatch):
    """A metric of a plug-in: whether the first result is relevant."""
    monkeypatch.setattr(METRICS, "_parts", {})
    register_metric("first")(lambda ranks, options: ranks.relevant[:, 0])


@pytest.fixture
def world(tmp_path, fused_shop, untrained, seen):
    """A folder of its own, the finished run, and stage folders of an untrained model."""
    judged = ["query_id\tquery\titem_id\tgrade", f"1\t{QUERY}\tT000\t1"]
    (tmp_path / "mine.tsv").write_text("\n".join(judged) + "\n")
    (tmp_path / "held.tsv").write_text("query_id\tquery\n1\titem 0\n")
    (tmp_path / "other.key").write_text("another secret\n")
    return SimpleNamespace(folder=tmp_path, shop=fused_shop, stages=untrained, seen=seen)


@pytest.fixture(scope="module")
def seen():
    """What each look sees before any change."""
    return {}


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    return write_stages(tmp_path_factory.mktemp("untrained"))


def of_world(value, world):
    return value(world) if callable(value) else value


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: "+".join(group.changes))
def test_every_option_is_seen_where_it_is_used(world, group):
    file = world.shop / "sidar.yaml" if group.run else None
    look = group.look.__name__, *group.base.items()
    if look not in world.seen:
        world.seen[look] = group.look(world, config_of(group.base, file))
    before = world.seen[look]
    values = {key: of_world(value, world) for key, (value, _) in group.changes.items()}
    after = group.look(world, config_of(group.base | values, file))
    for key, (_, want) in group.changes.items():
        expected = of_world(want, world)
        assert after[key] == expected, key
        assert before[key] != expected, key


def test_no_option_of_these_sections_is_left_out():
    covered = {key for group in GROUPS for key in group.changes}
    assert covered == {key for key in keys_of(Config()) if key.partition(".")[0] in SECTIONS}
