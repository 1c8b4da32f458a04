"""Words of products and queries: case folded, plurals folded, letters of unspaced scripts one by
one.
"""

from __future__ import annotations

import re
import unicodedata

from sidar.data.cleaning.normalise import fold_text

# Runs of letters and digits; scripts that are written without spaces (kana, CJK ideographs) give
# one token a character.
_TOKEN = re.compile(r"[぀-ヿ㐀-䶿一-鿿豈-﫿]|[^\W_぀-ヿ㐀-䶿一-鿿豈-﫿]+")


def fold_plural(word: str) -> str:
    """``towels`` → ``towel``, ``batteries`` → ``battery``, ``glass`` stays.

    [known: Harman's S-stemmer, 1991]
    """
    if len(word) > 3 and word.endswith("s"):
        if word.endswith("ies") and not word.endswith(("eies", "aies")):
            return word[:-3] + "y"
        if word.endswith("es") and not word.endswith(("aes", "ees", "oes")):
            return word[:-1]
        if not word.endswith(("us", "ss", "es")):
            return word[:-1]
    return word


def words(text: str) -> list[str]:
    """Tokens of ``text`` in order: format characters removed, NFKC, case folded, plurals folded."""
    return [
        fold_plural(token)
        for token in _TOKEN.findall(unicodedata.normalize("NFKC", fold_text(text)).casefold())
    ]
