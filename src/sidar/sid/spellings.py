"""How others write one SID: as a list, as the text of a list, or as one text of
tokens or numbers.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Sequence
from typing import Any

_TOKEN = re.compile(r"(?:<\|?)?([A-Za-z]\w*?)_(\d+)(?:\|?>)?", re.ASCII)
_BRACKETED = re.compile(r"<[^<>]*>")
_CONTROL = re.compile(r"<\|[^<>]*\|>|<s_end>|</s>|<eos>|<pad>")  # marks around an SID, no codes
_WHOLE = re.compile(r"-?\d+(?:\.0+)?", re.ASCII)
_NUMPY = re.compile(r"\b(?:array|tensor|np\.\w+|dtype=\S+|list|tuple)\b|np\.\w+(?=\()")
#: A hyphen parts codes only between two of them, so that "3 -1" keeps its padding.
_SEPARATOR = re.compile(r"[\s,;:|/>]+|(?<=\w)-(?=[\w-])")
_LARGEST = 1 << 24  # a code beyond this is a hash or an item number, not a code
READ = (
    'a list such as [1, 12] or ["<a_1>", "<b_12>"], its text, <a_1><b_12>, <|a_1|><|b_12|>, '
    "1-12 or 1 12"
)


def codes_of(where: str, value: Any) -> list[tuple[str, int]]:
    """Return (level name, code) of each token of one SID; names of bare numbers are "".

    ``where`` names the file and the item for errors. Raises ``ValueError`` for what is no SID.
    """
    tokens = _tokens(where, value)
    found = []
    padding = False
    for token in tokens:
        parsed = _parsed(where, token)
        if parsed is None:
            continue
        name, code = parsed
        if code < 0:  # −1 pads SIDs of other lengths in a rectangular table
            padding = True
            continue
        if padding:
            raise ValueError(f"{where}: token {token!r} follows the padding −1 in {value!r}")
        if code >= _LARGEST:
            raise ValueError(
                f"{where}: token {token!r} is no code: the largest allowed is {_LARGEST - 1}"
            )
        found.append((name, code))
    if not found:
        raise ValueError(f"{where} has no SID ({value!r}); leave it out of the table")
    return found


def _tokens(where: str, value: Any) -> Sequence[Any]:
    """The tokens of an SID in any spelling."""
    if isinstance(value, str):
        value = _text_tokens(where, value.strip(), value)
    elif hasattr(value, "tolist"):
        value = value.tolist()
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{where} has the SID {value!r}; want {READ}")
    if len(value) == 1 and isinstance(value[0], (list, tuple)) and len(value[0]) > 1:
        value = value[0]  # one SID in a list of SIDs
    tokens = [
        each[0] if isinstance(each, (list, tuple)) and len(each) == 1 else each for each in value
    ]
    if any(isinstance(each, (list, tuple)) for each in tokens):
        raise ValueError(
            f"{where} has several SIDs or nested codes, {value!r}; want one SID per item: {READ}"
        )
    return tokens


def _text_tokens(where: str, text: str, value: str) -> Sequence[Any]:
    if "<" in text:
        left = re.sub(r"[\s,;'\"()\[\]]+", "", _BRACKETED.sub("", text))
        if left:
            raise ValueError(
                f"{where}: {left!r} in {value!r} is no token; want tokens such as <a_12>"
            )
        return _BRACKETED.findall(text)
    if text.startswith(("[", "(")):
        try:
            listed = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            listed = None
        if isinstance(listed, (list, tuple)):
            return listed
    if re.match(r"(?:np\.)?(?:array|tensor)?\s*\(?\s*[\[({]", text):  # numpy prints no commas
        text = re.sub(r"[()\[\]{}'\"]+", " ", _NUMPY.sub(" ", text))
        return [token for token in re.split(r"[\s,;]+", text) if token]
    if re.fullmatch(r"\d+(?:_\d+)+", text):
        return text.split("_")
    return [token for token in _SEPARATOR.split(text) if token]


def _parsed(where: str, token: Any) -> tuple[str, int] | None:
    """(level name, code) of a token, −1 for padding; None for a mark around the SID."""
    if token is None or (isinstance(token, float) and math.isnan(token)):
        return "", -1  # pandas pads shorter lists with these
    if isinstance(token, float) and token.is_integer():
        token = int(token)
    if isinstance(token, int) and not isinstance(token, bool) and token >= -1:
        return "", token
    if isinstance(token, str):
        said = token.strip()
        if match := _TOKEN.fullmatch(said):
            return match[1], int(match[2])
        if _CONTROL.fullmatch(said):
            return None
        if _WHOLE.fullmatch(said) and float(said) >= -1:
            return "", int(float(said))
    raise ValueError(f"{where}: token {token!r} is not parseable; want such as <a_12> or 12")
