"""Which files, requests and rows reach the answer, the bundle and the report: spies on the stages
of a finished run.
"""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from fused_shop import FIRST

import sidar.evaluate.suite
import sidar.serve.bundle
from sidar import Retriever
from sidar.answer.facts import params_of, read_facts
from sidar.answer.fit import Fit
from sidar.answer.memory import Memory
from sidar.answer.smoothed import AnswerParams, popularity
from sidar.artifacts import sha256_file
from sidar.baselines import DEPTH, Bm25, Dense
from sidar.config import AlignConfig, load_config
from sidar.data import open_dataset
from sidar.decode import beam_search
from sidar.embed import load_embedder, load_items
from sidar.evaluate.measures import metrics
from sidar.pipeline import stages
from sidar.pipeline.plan import stages as stages_of
from sidar.pipeline.rows import answering, generative, memory_row, systems
from sidar.pipeline.rows.answer_rows import AnswerRows
from sidar.pipeline.rows.rerank import Reranked
from sidar.pipeline.runtime import folders
from sidar.types import Hits

SETS = (
    "evaluate.sets=[{name: judged, queries: judged_test.queries.tsv, qrels: judged_test.qrels.tsv},"
    " {name: dev, queries: judged_valid.queries.tsv, qrels: judged_valid.qrels.tsv, role: valid}]"
)
MODELS = ("sft", "align-raddpo")


def config(shop, *options):
    return load_config(shop / "sidar.yaml", [SETS, *options])


def asked_of(shop, split):
    """{request id: query} of one window of the log."""
    return {
        entry.request_id: entry.prompt.query
        for entry in open_dataset(shop / "runs/shop/data").requests(split)
    }


class Spy:
    """Keeps the arguments of every call and lets it through."""

    def __init__(self, real):
        self.real, self.calls = real, []

    def __call__(self, *args, **kwargs):
        self.calls.append((args, kwargs))
        return self.real(*args, **kwargs)


def report_of(shop, out, monkeypatch, *options, models=MODELS):
    """What the evaluate stage hands to the suite, and what BM25 and weights were tuned on; nothing
    is scored.
    """
    reached = SimpleNamespace(tuned=[], goals=[], suite=None)
    tune, goal = Bm25.tune, metrics.objective

    def tuned(self, queries, objective, **grids):
        reached.tuned.append(list(queries))
        return tune(self, queries, objective, weights=[self.params.weights], constants=[])

    def suite(systems, sets, *args, **kwargs):
        reached.suite = SimpleNamespace(systems=systems, sets=sets, **kwargs)
        return {}

    with monkeypatch.context() as patch:
        patch.setattr(Bm25, "tune", tuned)
        patch.setattr(
            metrics,
            "objective",
            lambda *args, **kw: reached.goals.append(args[0].name) or goal(*args, **kw),
        )
        patch.setattr(sidar.evaluate.suite, "run_suite", suite)
        cfg = config(shop, *options)
        stages.evaluate(cfg, inputs_of(cfg, *models), out, out / "work")
    return reached


def inputs_of(cfg, *models):
    """The folders that the stages behind the models read."""
    return folders(cfg.run_dir, ("data", "embed", "sid", "index", "answer", *models))


def queries_of(eval_set):
    return {prompt.query for prompt in eval_set.prompts}


def scores_of(hits, query):
    """{row: score} of one query's results."""
    some = hits.rows[query] >= 0
    return dict(
        zip(hits.rows[query][some].tolist(), hits.scores[query][some].tolist(), strict=True)
    )


def queries_of_file(shop, half):
    lines = (shop / f"judged_{half}.queries.tsv").read_text().splitlines()
    return {line.split("\t")[1] for line in lines[1:]}


# ------------------------------------------------------------------ the report


def test_what_is_tuned_reads_validation_and_what_is_scored_is_the_test(shop, tmp_path, monkeypatch):
    reached = report_of(shop, tmp_path, monkeypatch)
    tests, valid = (
        {entry.name: entry for entry in some}
        for some in (reached.suite.sets, reached.suite.tune_sets)
    )
    assert (set(tests), set(valid)) == ({"judged", "day7-clicks"}, {"dev", "day6-clicks"})
    assert set(tests["day7-clicks"].query_ids) <= set(asked_of(shop, "test"))
    assert set(valid["day6-clicks"].query_ids) <= set(asked_of(shop, "valid"))
    assert queries_of(tests["judged"]) == queries_of_file(shop, "test")
    assert queries_of(valid["dev"]) == queries_of_file(shop, "valid")
    assert reached.goals == ["dev"]
    assert [set(queries) for queries in reached.tuned] == [queries_of(valid["dev"])]
    # without a judged validation set BM25 takes the log's
    log = report_of(shop, tmp_path, monkeypatch, "evaluate.sets=[]", models=())
    assert log.goals == ["day6-clicks"]
    assert set(log.tuned[0]) == queries_of(valid["day6-clicks"])


def test_the_rows_of_a_model_are_its_folder_and_its_width(shop, tmp_path, monkeypatch):
    """The final model; with evaluate.best also the best one, where that is another;
    evaluate.wide_beam is one more.
    """
    run = shop / "runs/shop"
    trained = folders(run, MODELS)
    assert systems.checkpoints(trained, best=True) == systems.checkpoints(trained, best=False)
    assert systems.checkpoints(trained, best=False) == [
        ("sft", run / "sft/model"),
        ("raddpo", run / "align-raddpo/model"),
    ]
    real = systems.read_manifest

    def other_best(folder):
        reached = real(folder)
        return (
            SimpleNamespace(shapes={**reached.shapes, "best": {"step": 1}})
            if "align" in folder.name
            else reached
        )

    def tune(self, sets, catalogue, queries):
        tuned.update({self.name: [set(entry.query_ids) <= valid for entry in sets]})
        self.weight = 1.0
        return {"weight": 1.0}

    monkeypatch.setattr(systems, "read_manifest", other_best)

    def tuning_of(self, sets, most):
        offered.append(({entry.name for entry in sets}, most))
        return tuning(self, sets, most)

    monkeypatch.setattr(Reranked, "tune", tune)
    tuning, offered = AnswerRows.tuning_of, []
    monkeypatch.setattr(AnswerRows, "tuning_of", tuning_of)
    tuned, valid = {}, set(asked_of(shop, "valid"))
    options = ("decode.beam=4", "evaluate.wide_beam=9", "evaluate.best=true", "decode.rerank=dense")
    rows = report_of(shop, tmp_path, monkeypatch, *options).suite.systems
    models = {
        "sft": "sft/model",
        "raddpo": "align-raddpo/model",
        "raddpo-best": "align-raddpo/best",
    }
    for name, folder in models.items():
        for row, beam in ((name, 4), (f"{name}@9", 9)):
            assert (rows[row]._model, rows[row]._decode.beam) == (run / folder, beam)
        assert rows[f"{name}+rerank"]._model is rows[name]
        assert tuned[f"{name}+rerank"] == [True]  # one set, of validation requests
    assert offered == [({"dev", "day6-clicks"}, 64)] * len(models)  # for a run without a log
    assert set(rows) == {
        *(
            "bm25",
            "dense",
            "quantised-dense",
            "popularity",
            "prior",
            "answer",
            "answer-without-lm",
            "memory",
        ),
        *(row for name in models for row in (name, f"{name}@9", f"{name}+rerank")),
    }


def test_item_columns_expand_the_beam_of_their_row_by_shares(shop, tmp_path, monkeypatch):
    """Items of the SIDs of one beam, as wide as the row says, by log π(SID) + log of their share of
    clicks.
    """
    options = (
        "decode.beam=4",
        "decode.share_pseudo=0.5",
        "decode.share_temperature=2",
        "evaluate.wide_beam=64",
    )
    rows = report_of(shop, tmp_path, monkeypatch, *options).suite.systems
    data = open_dataset(shop / "runs/shop/data")
    prompts, clicks = (
        [entry.prompt for entry in list(data.requests("test"))[:6]],
        data.priors().clicks,
    )
    for system, width in ((rows["raddpo"], 4), (rows["raddpo@64"], 64)):
        hits = system.hits(prompts, 64)
        ranked, scores = system.sid_ranking(prompts, 3)  # the same beams, cut
        searcher, index = system.retriever, system.retriever.index
        assert searcher.label == system.name
        tokens = searcher.model.prompts.encode_batch(prompts, searcher.sids)
        beams = beam_search(searcher._scorer, tokens, index, width)
        assert ranked.tolist() == beams.sids[:, :3].tolist()
        assert scores == pytest.approx(beams.scores[:, :3])
        for q in range(len(prompts)):
            want = {}
            for sid, logp in zip(beams.sids[q], beams.scores[q], strict=True):
                inside = (
                    index.rows[index.rows_start[sid] : index.rows_start[sid + 1]]
                    if sid >= 0
                    else []
                )
                weight = {int(row): (clicks[row] + 0.5) ** 0.5 for row in inside}
                want |= {row: logp + np.log(weight[row] / sum(weight.values())) for row in weight}
            reached = scores_of(hits, q)
            assert reached == pytest.approx(want, abs=1e-4)
            assert list(reached.values()) == sorted(reached.values(), reverse=True)
        assert (len(want) == 64) == (width == 64)


def test_the_rows_of_the_answer_read_what_the_run_counted_and_fitted(shop, tmp_path, monkeypatch):
    """Counts up to the day before the test, the test day's never; each channel
    under its own name.
    """
    reached = report_of(shop, tmp_path, monkeypatch)
    rows, run = reached.suite.systems, shop / "runs/shop"
    kept, facts = Memory.load(run / "answer"), read_facts(run / "answer")
    memory = rows["memory"]
    clicks = open_dataset(run / "data").priors().clicks
    counted = [memory._table._memory]
    for name, fit in (("answer", "fit"), ("answer-without-lm", "without_generative")):
        model, channels = rows[name]._model, rows[name]._channels
        counted.append(model.memory)
        assert model.params == params_of(facts, fit)
        assert model._prior == pytest.approx(popularity(clicks, model.alive))
        assert isinstance(channels["bm25"].channel, Bm25)
        assert channels["bm25"].channel.params == Bm25.read_params(run / "answer")
        assert isinstance(channels["dense"].channel, Dense)
        assert set(channels) == set(model.params.channels)
    assert rows["answer"]._channels["generative"] is rows["raddpo"]
    for entry in counted:
        assert sorted(set(entry.days.tolist())) == [
            FIRST + day for day in range(6)
        ]  # validation is in, the test is not
        assert entry.keys.tolist() == kept.keys.tolist()
        assert entry.weights.tolist() == kept.weights.tolist()
    chosen, answered = facts["memory_row"], rows["answer"]._channels
    assert memory._table.half_life == (chosen["half_life"] or np.inf)
    assert (memory._fusion.method, list(memory._fusion.weights)) == (
        chosen["method"],
        list(chosen["weights"].values()),
    )
    assert [channel.name for channel in memory._channels] == list(chosen["weights"])
    assert memory._channels[0].channel.params == answered["bm25"].channel.params
    assert isinstance(memory._channels[1].channel, Dense)


# ------------------------------------------------------------------ the answer


def test_the_answer_is_fitted_to_named_channels_on_the_validation_day(shop, tmp_path, monkeypatch):
    """Every search, tuning and count behind the constants reads the validation day and the days
    before it.
    """
    cfg, data = config(shop), open_dataset(shop / "runs/shop/data")
    valid, fits, tuned, first_rows = asked_of(shop, "valid"), [], Spy(answering.objective), []

    def fit_answer(channels, chosen, prior, n_live):
        fits.append(SimpleNamespace(channels=channels, chosen=chosen, prior=prior, n_live=n_live))
        names = tuple(channels)
        params = AnswerParams(
            1.0, 7.0, 0.01, 0.01, dict.fromkeys(("prior", *names), 0.5), dict.fromkeys(names, 1.0)
        )
        return Fit(params, 0.0, float(len(names)), chosen.n_requests)

    class FirstRows(memory_row.MemoryFirst):
        def __init__(self, memory, *args):
            first_rows.append(memory)
            super().__init__(memory, *args)

    class Model(generative.GenerativeSystem):
        def __init__(self, name, model, *args):
            models.append((name, model, args[3]))
            super().__init__(name, model, *args)

    models = []
    monkeypatch.setattr(generative, "GenerativeSystem", Model)
    monkeypatch.setattr(answering, "fit_answer", fit_answer)
    for module in (answering, memory_row):
        monkeypatch.setattr(module, "objective", tuned)
    monkeypatch.setattr(memory_row, "MemoryFirst", FirstRows)
    stages.answer(cfg, inputs_of(cfg, cfg.align.folder), tmp_path, tmp_path / "work")
    assert models == [("raddpo", cfg.run_dir / "align-raddpo/model", cfg.decode)]

    _, *for_memory_row = chosen_on = [args[0] for args, _ in tuned.calls]  # the first is for BM25
    assert len(for_memory_row) == 3  # its half-life, its weights, its half-life again
    for some in chosen_on:
        assert len(some)
        assert (
            dict(
                zip(some.query_ids, [prompt.query for prompt in some.prompts], strict=True)
            ).items()
            <= valid.items()
        )
    assert first_rows
    for memory in first_rows:  # what the half-life is chosen with: the days before validation
        assert sorted(set(memory.days.tolist())) == [FIRST + day for day in range(5)]
    kept = Memory.load(tmp_path)  # what is served: validation too
    assert sorted(set(kept.days.tolist())) == [FIRST + day for day in range(6)]

    without, fitted = fits
    assert (list(without.channels), list(fitted.channels)) == (
        ["bm25", "dense"],
        ["bm25", "dense", "generative"],
    )
    facts = read_facts(tmp_path)
    assert list(facts["fit"]["params"]["temperatures"]) == ["bm25", "dense", "generative"]
    assert list(facts["without_generative"]["params"]["temperatures"]) == ["bm25", "dense"]
    prompts = list(for_memory_row[0].prompts)
    assert fitted.chosen.n_requests == len(prompts)  # every request of this log has a query
    texts = [prompt.query for prompt in prompts]
    embedder = load_embedder(cfg.embed, "cpu")
    dense = Dense(load_items(cfg.run_dir / "embed"), embedder, alive=data.catalogue.alive)
    written = Retriever.load(cfg.run_dir / "bundle", precision="fp32").hits(prompts, DEPTH)
    want = {
        "bm25": Bm25.load(tmp_path).search(texts, DEPTH),
        "dense": dense.search(texts, DEPTH),
        "generative": written,
    }
    for name, entry in want.items():
        got = fitted.channels[name]
        for q in range(len(prompts)):
            assert scores_of(got, q) == pytest.approx(scores_of(entry, q), abs=1e-3)
    for fit in fits:
        assert fit.prior == pytest.approx(popularity(data.priors().clicks, data.catalogue.alive))
        assert fit.n_live == int(data.catalogue.alive.sum())


def test_a_served_answer_hands_each_channel_on_under_its_name(shop, served):
    fused, queries = served.fused, ["steel bottle", "towel"]
    vectors = served.vectors.search(queries)
    marked = Hits(np.array([[3], [5]], np.int32), np.ones((2, 1), np.float32))
    reached = fused.channels(queries, vectors, marked)
    lexical = Bm25.load(shop / "runs/shop/answer").search(queries, DEPTH)
    embedder = load_embedder(config(shop).embed, "cpu")
    dense = Dense(load_items(shop / "runs/shop/embed"), embedder).search(queries, DEPTH)
    assert list(reached) == ["bm25", "dense", "generative"]
    assert reached["generative"] is marked
    for name, want in (("bm25", lexical), ("dense", dense)):
        assert reached[name].rows.tolist() == want.rows.tolist()
    assert reached["bm25"].rows.tolist() != reached["dense"].rows.tolist()


# ------------------------------------------------------------------ the bundle


def test_the_bundle_serves_the_final_model_of_the_config(shop, tmp_path, monkeypatch):
    run, asked = shop / "runs/shop", []
    monkeypatch.setattr(
        sidar.serve.bundle,
        "write_bundle",
        lambda out, sources: asked.append((out, vars(sources).copy())) or {},
    )
    cfg = config(
        shop, "decode.beam=7", "embed.batch_size=9", "align.label=other", "decode.rerank=dense"
    )
    rerank = {"weight": 2.0}
    monkeypatch.setattr(stages, "read_facts", lambda folder: {"rerank": rerank, "at": folder})
    stages.bundle(cfg, inputs_of(cfg, cfg.align.folder), tmp_path, tmp_path / "work")
    ((out, parts),) = asked
    config_kept = parts.pop("config")
    assert out == tmp_path
    assert parts == {
        **{name: run / name for name in ("data", "embed", "sid", "index", "answer")},
        **{"model": run / "align-other/model", "label": "other", "rerank": rerank},
        **{"examples": None, "encoder": None},
    }
    assert config_kept == cfg.model_dump(mode="json", include={"decode", "embed"})
    made = json.loads((run / "bundle/bundle.json").read_text())
    assert (made["label"], made["fuse"]) == ("raddpo", "memory")
    for file in ("model.safetensors", "config.json"):
        assert sha256_file(run / "bundle/model" / file) == sha256_file(
            run / "align-raddpo/model" / file
        )
    for file in sorted((run / "answer").iterdir()):
        if file.name != "manifest.json":
            assert sha256_file(run / "bundle/answer" / file.name) == sha256_file(file)


def test_of_several_aligned_models_the_first_is_answered_with_and_served(shop, monkeypatch):
    cfg, asked = config(shop), {}
    for name in ("answer", "bundle", "evaluate"):
        monkeypatch.setattr(
            stages,
            name,
            lambda stage_cfg, inputs, out, work, name=name: (
                asked.update({name: (stage_cfg, inputs)}) or {}
            ),
        )
    aligns = [AlignConfig(objective=name) for name in ("dpo", "raddpo", "sft")]
    by_name = {stage.name: stage for stage in stages_of(cfg, aligns)}
    for name in ("answer", "bundle", "evaluate"):
        inputs = by_name[name].folders(cfg.run_dir)
        by_name[name].build(cfg, inputs, cfg.run_dir, cfg.run_dir)
        stage_cfg, _ = asked[name]
        assert stage_cfg.align == aligns[0]
        assert stage_cfg.model_copy(update={"align": cfg.align}) == cfg
        assert "align-dpo" in by_name[name].inputs
    models = ["sft", "align-dpo", "align-raddpo", "align-sft"]
    assert list(asked["evaluate"][1])[-4:] == models
    assert not {"align-raddpo", "align-sft"} & {
        *by_name["answer"].inputs,
        *by_name["bundle"].inputs,
    }
