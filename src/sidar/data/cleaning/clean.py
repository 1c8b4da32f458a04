"""SQL expressions that turn what sources write into what the contract says; each states what
becomes NULL.
"""

from __future__ import annotations

from sidar.data.duck import Duck, name

#: Calendar timestamps outside 1990–2100 are taken for errors (µs).
EARLIEST, LATEST = 631_152_000_000_000, 4_102_444_800_000_000
DAY_US = 86_400_000_000
_SCALE = {"s": 1e6, "ms": 1e3, "us": 1.0, "ns": 1e-3}


def present(column: str) -> str:
    """Trimmed text; NULL for blanks and for the ways in which exporters write "no value" (nan,
    null, none, <na>).

    Format characters vanish, and any white space at the ends, so that ids match whatever was pasted
    beside them.
    """
    trimmed = f"trim({name(column)}::VARCHAR, {_BLANKS})"
    # most ids are ASCII, and looking is cheaper than replacing
    odd = f"strlen({trimmed}) > length({trimmed})"
    shown = (
        f"regexp_replace(regexp_replace({trimmed}, '\\p{{Cf}}+', '', 'g'), "
        "'^[\\s\\pC\\pZ]+|[\\s\\pC\\pZ]+$', '', 'g')"
    )
    value = f"CASE WHEN {odd} THEN {shown} ELSE {trimmed} END"
    return f"CASE WHEN lower({value}) NOT IN ('', 'nan', 'null', 'none', '<na>') THEN {value} END"


def whole_id(sql: str) -> str:
    """The text of an id; a number that some tool made a double loses its ``.0``."""
    return (
        f"CASE WHEN ends_with({sql}, '.0') THEN regexp_replace({sql}, '^(-?\\d+)\\.0$', '\\1') "
        f"ELSE {sql} END"
    )


#: ASCII's white space.
_BLANKS = "' ' || chr(9) || chr(10) || chr(11) || chr(12) || chr(13)"


def prose(column: str) -> str:
    """:func:`present` text, :func:`folded`; NULL when nothing is left."""
    return f"nullif({folded(present(column))}, '')"


def folded(sql: str) -> str:
    """Trimmed text of an expression, control characters and white space folded to single spaces.

    Format characters (soft hyphens, zero-width joiners, directional marks) vanish: they stand
    inside words.  The twin in Python is :func:`sidar.data.cleaning.normalise.fold_text`.
    """
    # most texts need no folding, and looking is fifteen times cheaper than replacing
    dirty = f"regexp_matches({sql}, '\\pC|[^ \\S]|[^ \\PZ]|  ')"
    visible = f"regexp_replace({sql}, '\\p{{Cf}}+', '', 'g')"
    return (
        f"trim(CASE WHEN {dirty} THEN regexp_replace({visible}, '[\\s\\pC\\pZ]+', ' ', 'g') "
        f"ELSE {sql} END)"
    )


def number(column: str, sql_type: str, decimal: str = ".") -> str:
    """A finite DOUBLE, also from text such as "$1,299.00", "Rs. 1,29,999" or "1 299 kr"; NULL
    otherwise.

    ``decimal`` is the mark before the fraction; points or commas, blanks and apostrophes group
    thousands.
    """
    own = name(column)
    if sql_type != "VARCHAR":
        value = f"try_cast({own} AS DOUBLE)"
    else:
        group = "[,'' ’\\x{00a0}\\x{202f}]" if decimal == "." else "[.'' ’\\x{00a0}\\x{202f}]"
        mark = f"[{decimal}]"
        whole = f"\\d{{1,3}}(?:{group}\\d{{2,3}})*{group}\\d{{3}}|\\d+"
        figure = f"((?:{whole})(?:{mark}\\d+)?|{mark}\\d+)"
        end = "(?:[.,][-–—]{1,2})?"  # 9,– and 9.-
        pattern = (
            f"(?i)^(?:{_CURRENCY})?[\\s\\x{{00a0}}]*{figure}{end}[\\s\\x{{00a0}}]*(?:{_CURRENCY})?$"
        )
        priced = f"regexp_replace(regexp_extract({own}, '{pattern}', 1), '{group}', '', 'g')"
        parsed = f"try_cast(replace({priced}, '{decimal}', '.') AS DOUBLE)"
        # what only programs write: an exponent; with a decimal point also a sign
        plain = (
            own
            if decimal == "."
            else f"CASE WHEN regexp_matches({own}, '\\d[eE][+-]?\\d') THEN {own} END"
        )
        value = f"coalesce(try_cast({plain} AS DOUBLE), {parsed})"
        if decimal == ",":
            negative = f"regexp_extract({own}, '^\\s*-(\\d+(?:,\\d+)?)\\s*$', 1)"
            value = f"coalesce({value}, -try_cast(replace({negative}, ',', '.') AS DOUBLE))"
        value = f"CASE WHEN {own} IS NOT NULL THEN {value} END"
    return f"CASE WHEN isfinite({value}) THEN {value} END"


#: Signs and words of currencies, before or after a price.
_CODES = (
    "eur usd gbp jpy cny rmb inr chf sek nok dkk isk pln czk huf ron bgn rub uah try brl mxn ars "
    "clp cop pen cad aud nzd krw twd hkd sgd thb idr vnd myr php zar ils aed sar qar kwd egp mad "
    "ngn kes pkr bdt lkr irr kzt"
)
_WORDS = (
    "euros? dollars? pounds? pesos? rupees? yen yuan won francs? kronor kroner kr zł zl kč kc ft "
    "lei leu rs rp rm tl fr sfr лв руб рублей р грн тг 元 円 원 rials? dirhams?"
)
_CURRENCY = rf"(?:\p{{L}}{{0,3}}\p{{Sc}}|{'|'.join((_CODES + ' ' + _WORDS).split())})\.?"


def flag(column: str) -> str:
    """A BOOLEAN from the usual words; NULL otherwise."""
    text = f"lower(trim({name(column)}::VARCHAR))"
    return (
        f"CASE WHEN {text} IN ('true', 't', '1', 'yes', 'y', 'in stock', 'in_stock', 'available') "
        f"THEN true WHEN {text} IN ('false', 'f', '0', 'no', 'n', 'out of stock', 'out_of_stock', "
        "'unavailable') THEN false END"
    )


def path(column: str, sql_type: str, separator: str) -> str:
    """A category path as VARCHAR[], from a list or from text split at ``separator``."""
    own, cut = name(column), separator.replace("'", "''")
    if sql_type.endswith("[]"):
        parts = f"{own}::VARCHAR[]"
    else:
        parts = f"string_split(' ' || {present(column)} || ' ', '{cut}')"
    return (
        f"list_filter(list_transform(coalesce({parts}, []), lambda p: trim(p)), lambda p: p IS "
        "NOT NULL AND p <> '')"
    )


def micros(column: str, sql_type: str, unit: str) -> str:
    """µs since 1970 UTC (BIGINT) from calendar types, ISO text (no zone = UTC) or numbers in
    ``unit``; else NULL.
    """
    own = name(column)
    if sql_type.startswith(("TIMESTAMP", "DATE")):
        return f"epoch_us({own}::TIMESTAMPTZ)"
    scaled = f"(try_cast({own} AS DOUBLE) * {_SCALE[unit]!r})"
    counted = (
        f"CASE WHEN isfinite({scaled}) AND abs({scaled}) < 9e18 THEN round({scaled})::BIGINT END"
    )
    if sql_type in ("TINYINT", "SMALLINT", "INTEGER", "BIGINT") and unit in ("s", "ms", "us"):
        # exact and cheap: the usual case
        return f"try_cast({own}::HUGEINT * {int(_SCALE[unit])} AS BIGINT)"
    if sql_type == "VARCHAR":
        return f"coalesce({counted}, epoch_us(try_cast({own} AS TIMESTAMPTZ)))"
    return counted


def time_unit(duck: Duck, relation: str, column: str) -> str | None:
    """The unit of numeric timestamps, from the size of their median: seconds reach 1e9, ms 1e12, µs
    1e15, ns 1e18; None where no timestamp is a number.

    One unit for the whole column: a value that the others' unit puts outside 1990–2100 is bad, not
    of another unit.
    """
    sample = (
        f"(SELECT try_cast({name(column)}::VARCHAR AS DOUBLE) AS v FROM ({relation}) LIMIT 100000)"
    )
    middle = duck.row(f"SELECT median(abs(v)) FROM {sample} WHERE isfinite(v)")[0]
    if middle is None:
        return None
    return "s" if middle < 1e11 else "ms" if middle < 1e14 else "us" if middle < 1e17 else "ns"


def calendar(micros_sql: str) -> str:
    """True where µs lie inside 1990–2100."""
    return f"{micros_sql} BETWEEN {EARLIEST} AND {LATEST}"
