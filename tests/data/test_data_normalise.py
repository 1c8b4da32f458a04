import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidar.data.cleaning.normalise import normalise_query


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("  Red   Shoes! ", "red shoes"),
        ("red-shoes", "red shoes"),
        ("Ｒｅｄ shoes", "red shoes"),  # full-width letters
        ("re\u200bd sh\u00adoes", "red shoes"),  # zero-width space, soft hyphen
        ("red\u00a0shoes\u2028", "red shoes"),  # other white space separates
        ("Straße", "strasse"),
        ("e\u0301tage", "étage"),
        ("東京 タワー", "東 京 タワー"),
        ("ठंडा पानी", "ठंडा पानी"),  # marks belong to their word
        ("…!?", ""),
        ("", ""),
    ],
)
def test_writes_the_normal_form(text, normal):
    assert normalise_query(text) == normal


@given(st.text())
def test_a_normal_form_is_its_own_normal_form(text):
    once = normalise_query(text)
    assert normalise_query(once) == once


@given(st.text())
def test_case_and_composition_do_not_matter(text):
    assert normalise_query(unicodedata.normalize("NFD", text)) == normalise_query(
        unicodedata.normalize("NFC", text)
    )


@given(st.text(st.characters(max_codepoint=127)))
def test_the_short_way_for_ascii_equals_the_long_one(text):
    # a trailing character that vanishes sends the same text through the general code
    assert normalise_query(text) == normalise_query(text + "\u200b")
