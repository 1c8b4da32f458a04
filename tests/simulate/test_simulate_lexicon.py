import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference_simulate import sample_facts

from sidar.simulate.lexicon import base, load_lexicon, plain, pluralise, singular

LEXICON = load_lexicon()
NOUNS = sorted({noun for nouns in LEXICON.nouns.values() for noun in nouns})


@given(st.sampled_from(NOUNS), st.booleans())
def test_writing_a_noun_and_reading_it_back_gives_the_noun(noun, plural):
    assert base(LEXICON.written(noun, plural)) == noun


@pytest.mark.parametrize(
    ("one", "many"),
    [
        ("knife", "knives"),
        ("wine glass", "wine glasses"),
        ("battery", "batteries"),
        ("case", "cases"),
        ("toy", "toys"),
    ],
)
def test_plurals_by_ending(one, many):
    assert " ".join([*one.split()[:-1], pluralise(one.split()[-1])]) == many
    assert base(many) == one


@pytest.mark.parametrize("word", ["dress", "bus", "thermos", "gas", "tennis", "cookie"])
def test_words_that_only_look_plural_stay(word):
    assert singular(word) == word


def test_pairs_are_always_plural_and_masses_never():
    assert LEXICON.written("slipper", plural=False) == "slippers"
    assert LEXICON.written("toothpaste", plural=True) == "toothpaste"
    assert LEXICON.written("wall art", plural=True) == "wall art"


def test_plain_text_has_no_case_accent_apostrophe_or_punctuation():
    assert plain('Women’s T-Shirt, Café-Style (2" x 1/2)') == "womens tshirt cafe style 2 x 1 2"


def test_synonyms_replace_nouns_that_the_sample_has():
    known = set(sample_facts().rows_of)
    unknown = set(LEXICON.synonyms) - known
    assert len(unknown) <= 0.2 * len(LEXICON.synonyms), unknown


def test_every_colour_means_itself_and_can_be_said():
    for colour, entry in LEXICON.colours.items():
        assert colour in entry["words"]
        assert colour in entry["said"]
