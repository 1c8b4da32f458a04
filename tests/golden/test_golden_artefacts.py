"""Bundles, checkpoints and tokenizers that an older version wrote load and answer as they did.

Compared exactly: items and their order, SIDs, ranks, channels, notes, tokens of prompts, codes.
Compared to the last bit on a machine like the recording's and closely elsewhere: what no language
model computes (counts, cosines). Compared within 1e-5 everywhere: scores and log-probs, because
training and decoding may share their arithmetic.
"""

import json

import pytest
from golden import answers, entry, toyrun
from golden.compare import SCORE, arrays, as_json, check_close, check_numbers, here, recorded
from golden.kept import BUNDLE, PACKED, REQUESTS, SEARCHES, VARIED

#: Figures of an answer that no language model computes.
BITS = ("count", "cosine", "seen")


@pytest.mark.parametrize("folder", [BUNDLE, VARIED], ids=lambda folder: folder.name)
def test_an_old_bundle_is_whole(folder):
    entry.verify_bundle(folder)


@pytest.mark.parametrize("name", SEARCHES)
def test_an_old_model_answers_alike(name, retrievers):
    for variant, answer in answers.answers(name, retrievers[name]).items():
        exact = {key: value for key, value in answer.items() if key[0] != "_"}
        assert as_json(exact) == recorded("answers")[name][variant], variant
        figures = {key[1:]: value for key, value in answer.items() if key[0] == "_"}
        before = {
            key.split("|")[2]: v
            for key, v in arrays("answers").items()
            if key.startswith(f"{name}|{variant}|")
        }
        assert set(figures) == set(before), variant
        for field, values in figures.items():
            atol = 0 if field in BITS and here() else SCORE
            check_close(values, before[field], f"{name}, {variant}, {field}", atol=atol)


def test_queries_asked_together_get_the_answers_they_get_alone(retrievers):
    queries = ["bath towel", "tent for two", ""]
    before = recorded("answers")["bundle"]["alone"]["items"]
    together = retrievers["bundle"].search(queries, fuse="none")
    assert [[hit.item_id for hit in hits] for hits in together] == [before[i] for i in (2, 6, 11)]


@pytest.mark.parametrize("name", SEARCHES)
def test_prompts_have_the_same_tokens(name, retrievers):
    assert entry.prompt_tokens(retrievers[name], REQUESTS) == recorded("prompt_tokens")[name]


@pytest.mark.parametrize("name", SEARCHES)
def test_free_decoding_writes_the_same(name, retrievers):
    for field, values in answers.free(retrievers[name]).items():
        check_close(values, arrays("free")[f"{name}|{field}"], f"{name}, {field}", atol=SCORE)


def test_an_explained_search_shows_the_same_levels(retrievers):
    levels = answers.beams_level_by_level(retrievers["bundle"])
    check_numbers(levels, recorded("levels"), "levels", atol=SCORE)


def test_tokenizers_give_the_codes_they_gave():
    assert answers.tokenizer_codes() == recorded("sid_codes")


def test_the_service_answers_alike():
    now, before = as_json(toyrun.http_answers()), recorded("http")
    assert set(now) == set(before)
    for name, answer in before.items():
        assert now[name] == answer, name


def test_a_manifest_names_what_it_always_named():
    """What reads an artefact from outside leans on the fields of its JSON files."""
    manifest = json.loads((BUNDLE / "manifest.json").read_text())
    fields = {
        "kind",
        "config",
        "inputs",
        "files",
        "shapes",
        "code_version",
        "created",
        "seconds",
        "apart",
    }
    assert set(manifest) == fields
    written = recorded("run_structure")["bundle"]["manifest.json"]
    assert set(written) == fields
    facts = json.loads((BUNDLE / "bundle.json").read_text())
    assert set(facts) == {
        "format",
        "label",
        "lineage",
        "parts",
        "config",
        "rerank",
        "fuse",
        "examples",
    }
    kept = {str(path.relative_to(BUNDLE)) for path in BUNDLE.rglob("*") if path.is_file()}
    # the hash of the manifest came after this bundle was made
    assert kept | {"manifest.sha256"} == set(recorded("run_structure")["bundle"])


def test_the_fixtures_stay_small():
    assert sum(path.stat().st_size for path in PACKED.iterdir()) < 1_500_000
