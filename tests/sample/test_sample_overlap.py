from hypothesis import given, settings
from hypothesis import strategies as st

from sidar.data.sample.overlap import Overlap, jaccard, normal_tokens

words = st.sampled_from(["red", "dog", "bowls", "bowl", "café", "kit's", "glass", "1/2"])
texts = st.lists(words, max_size=5).map(" ".join)


def test_tokens_are_folded_for_case_accents_punctuation_and_plural():
    assert normal_tokens("Café BOWLS, (red) women's glass 1/2") == {
        "cafe",
        "bowl",
        "red",
        "women",
        "glass",
        "1",
        "2",
    }


def test_the_threshold_itself_is_too_similar():
    assert jaccard(normal_tokens("a1 b1 c1 d1 e1"), normal_tokens("a1 b1 c1 d1")) == 0.8
    assert Overlap(["a1 b1 c1 d1 e1"]).is_near("d1 c1 b1 a1")


@settings(deadline=None)
@given(st.lists(texts, max_size=4), texts)
def test_the_inverted_index_finds_the_largest_jaccard(queries, query):
    want = max((jaccard(normal_tokens(query), normal_tokens(q)) for q in queries), default=0.0)
    assert Overlap(queries).nearest(query) == want


def test_words_of_no_letters_are_no_overlap():
    assert Overlap(["!!!"]).nearest("???") == 0.0
