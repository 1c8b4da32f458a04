"""Random tables of random physical types in every format and dialect: read as written, or refused
in words.
"""

from __future__ import annotations

import datetime
import json
import math
import re
import tempfile
from pathlib import Path
from typing import Any

import field_twin as twin
from field_twin import LABEL, MEASURE, NESTED, PROSE, Column, Dialect, Part
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from sidar.config import Config
from sidar.data import read_catalogue
from sidar.data.duck import Duck
from sidar.data.readers.small import read_small
from sidar.data.readers.source import EVENT_COLUMNS, ITEM_COLUMNS
from sidar.data.readers.tabular import open_table
from sidar.data.users import write_users
from sidar.sid.published import read_published

MEASURES = {"ts", "position", "value", "dwell_s", "price", "created"}
ROLES = {
    **dict.fromkeys((*EVENT_COLUMNS, *ITEM_COLUMNS), LABEL),
    **dict.fromkeys(MEASURES, MEASURE),
    **dict.fromkeys(("category", "attributes"), NESTED),
    **dict.fromkeys(("title", "text", "brand", "image_url", "query", "bucket"), PROSE),
}
#: Names that a source may give its columns.
ODD_NAMES = (
    "file", "place", "sidar", "filename", "file_row_number", "line", "v", "select", "a b", "it's",
    'x"y', "a,b;c|d", "Größe", "a.b", "ITEM_ID", "Query", "1", "column 3", "\u2028x", "_id",
    "rowid",
)  # fmt: skip
examples = settings(
    max_examples=25,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    # shrinking a table takes minutes; a failure prints it whole
    phases=[Phase.explicit, Phase.generate],
)


def kinds(format: str, role: str) -> st.SearchStrategy[str]:
    """Draw a physical type; those that must be refused come now and then."""
    if format == "parquet":
        every = [kind for kind in twin.KINDS if kind != "list of codes"]
    else:
        every = list(twin.JSON_KINDS if "j" in format else twin.CSV_KINDS)
    rare = {*twin.NESTED_KINDS, "bad binary"}
    usual = [
        kind for kind in every if kind not in rare or (role == NESTED and kind != "bad binary")
    ]
    return st.sampled_from(usual * 8 + every)


@st.composite
def columns_of(
    draw: st.DrawFn, format: str, names: list[str], roles: dict[str, str], rows: int
) -> dict[str, Column]:
    made = {}
    for column in names:
        kind = draw(kinds(format, roles[column]))
        values = draw(
            st.lists(st.one_of(twin.KINDS[kind].values, st.none()), min_size=rows, max_size=rows)
        )
        if format != "parquet":  # JSON has no NaN or infinity
            values = [None if isinstance(v, float) and not math.isfinite(v) else v for v in values]
        made[column] = Column(kind, values)
    return made


@st.composite
def parts(
    draw: st.DrawFn, required: list[str], optional: list[str], roles: dict[str, str]
) -> list[Part]:
    made = []
    for _ in range(draw(st.sampled_from([1, 1, 2, 3]))):
        format = draw(st.sampled_from(twin.FORMATS))
        some = (
            draw(st.lists(st.sampled_from(optional), unique=True, max_size=5)) if optional else []
        )
        names = draw(st.permutations([*required, *some]))
        columns = draw(columns_of(format, names, roles, draw(st.integers(1, 5))))
        made.append(Part(format, columns, draw(dialects(format, columns))))
    return made


@st.composite
def dialects(draw: st.DrawFn, format: str, columns: dict[str, Column]) -> Dialect:
    dialect = Dialect(mark=draw(st.booleans()), windows=draw(st.booleans()))
    if "j" in format:
        dialect.ascii = draw(st.booleans())
        if all(any(value is not None for value in column.values) for column in columns.values()):
            dialect.sparse = draw(st.booleans())
        return dialect
    dialect.delimiter = draw(st.sampled_from(",;\t|"))
    dialect.quote_all, dialect.stated = (
        draw(st.booleans()),
        draw(st.sampled_from([False, False, True])),
    )
    if len(columns) > 1:  # a header of one name says nothing of the delimiter
        dialect.trailing = draw(st.sampled_from(["", "", "rows", "all"]))
    dialect.nameless = draw(st.sampled_from([False, False, True]))
    cells = [twin.csv_cell(value) for column in columns.values() for value in column.values]
    if any('"' in cell for cell in cells) and not any('"' in column for column in columns):
        dialect.backslash = draw(st.booleans())
    return dialect


@st.composite
def tables(
    draw: st.DrawFn, wanted: tuple[str, ...], required: list[str]
) -> tuple[list[Part], dict[str, str]]:
    """Draw the parts of a source and the mapping of its columns."""
    odd = draw(st.lists(st.sampled_from(ODD_NAMES), unique=True, max_size=3))
    mapped = draw(st.permutations(wanted))[: len(odd)]
    mapping = dict(zip(mapped, odd, strict=True))
    own = {column: mapping.get(column, column) for column in wanted}
    roles = {own[column]: ROLES[column] for column in wanted}
    must = [own[column] for column in required]
    made = draw(parts(must, [o for o in own.values() if o not in must], roles))
    present = {column for part in made for column in part.columns}
    mapping = {column: o for column, o in mapping.items() if o in present}
    return made, mapping


def write(made: list[Part], folder: Path) -> list[Path]:
    return [twin.write_part(part, folder, f"part-{n}") for n, part in enumerate(made)]


def refusal(made: list[Part], paths: list[Path], roles: dict[str, str]) -> list[tuple[str, str]]:
    """Return the columns that must be refused, and their files."""
    odd = [("", column) for column in twin.case_twins(made)]
    odd += [
        (path.name, "file_row_number")
        for part, path in zip(made, paths, strict=True)
        if part.format == "parquet" and "file_row_number" in part.columns
    ]
    return odd + [
        (path.name, column)
        for part, path in zip(made, paths, strict=True)
        for column, values in part.columns.items()
        if column in roles and twin.refused(part, values, roles[column])
    ]


def check_error(error: ValueError, refusals: list[tuple[str, str]], made: list[Part]) -> None:
    message = str(error)
    assert any(
        file in message and (column in message or repr(column)[1:-1] in message)
        for file, column in refusals
    ), (
        message,
        refusals,
        made,
    )


def expected(part: Part, own: str, role: str) -> list[Any]:
    if own not in part.columns:
        return [None] * len(part)
    column = part.columns[own]
    if role == NESTED and twin.is_nested(part, column):
        return list(column.values)
    if role == MEASURE:
        return twin.texts_of(part, column) if twin.is_nested(part, column) else list(column.values)
    return twin.texts_of(part, column) if role == PROSE else twin.label_texts(part, column)


def lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def moment(value: Any) -> datetime.datetime:
    if isinstance(value, str):
        value = datetime.datetime.fromisoformat(value)
    if not isinstance(value, datetime.datetime):
        value = datetime.datetime(value.year, value.month, value.day)
    return value if value.tzinfo else value.replace(tzinfo=datetime.UTC)


def same(want: Any, got: Any) -> bool:
    if isinstance(want, bytes):
        want = want.decode()
    if want is None or want == "" or want != want or got is None or got == "":
        return (want in (None, "") or want != want) and (got in (None, "") or got != got)
    if isinstance(want, (datetime.datetime, datetime.date)):
        return moment(want) == moment(got)
    if isinstance(want, bool):
        return str(got).lower() == str(want).lower()
    if isinstance(want, (dict, list)):
        return isinstance(got, str) and alike(json.loads(got), want)
    if isinstance(want, str):
        return isinstance(got, str) and lines(want) == lines(got)
    return math.isclose(float(want), float(got), rel_tol=1e-6)


def alike(got: Any, want: Any) -> bool:
    if isinstance(want, dict):
        return (
            isinstance(got, dict)
            and got.keys() == want.keys()
            and all(alike(got[k], want[k]) for k in want)
        )
    if isinstance(want, list):
        return isinstance(got, list) and len(got) == len(want) and all(map(alike, got, want))
    return got == (want.decode() if isinstance(want, bytes) else want)


def check_table(option: str, wanted: tuple[str, ...], required: list[str], drawn: tuple) -> None:
    made, mapping = drawn
    own = {column: mapping.get(column, column) for column in wanted}
    roles = {own[column]: ROLES[column] for column in wanted}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paths = write(made, folder)
        refusals = refusal(made, paths, roles)
        with Duck(folder / "work", "256MB", 1) as duck:
            try:
                path = paths[0] if len(paths) == 1 else folder / "part-*"
                source = open_table(duck, str(path), mapping, wanted, required, option)
                rows = duck.table(f"SELECT * FROM ({source.sql}) ORDER BY file, place").to_pylist()
            except ValueError as error:
                check_error(error, refusals, made)
                return
    assert not refusals, (refusals, made)
    assert not source.rejects, (source.rejects, made)
    assert len(rows) == sum(map(len, made)), made
    start = 0
    for part, path in zip(made, paths, strict=True):
        read = rows[start : start + len(part)]
        start += len(part)
        first = part.first_place()
        assert [(row["file"], row["place"]) for row in read] == [
            (str(path), first + n) for n in range(len(part))
        ]
        for column in wanted:
            for want, row in zip(expected(part, own[column], ROLES[column]), read, strict=True):
                assert same(want, row[column]), (
                    path.name,
                    column,
                    own[column],
                    want,
                    row[column],
                    part,
                )


@examples
@given(tables(EVENT_COLUMNS, ["ts", "item_id"]))
def test_a_log_reads_as_written_or_is_refused(drawn: tuple) -> None:
    check_table("events", EVENT_COLUMNS, ["ts", "item_id"], drawn)


@examples
@given(tables(ITEM_COLUMNS, ["item_id", "title"]))
def test_a_catalogue_reads_as_written_or_is_refused(drawn: tuple) -> None:
    check_table("catalogue", ITEM_COLUMNS, ["item_id", "title"], drawn)


def shown(part: Part, own: str, role: str) -> list[str | None]:
    kind = part.columns[own].kind if own in part.columns else ""
    return [twin.printed(value, kind) for value in expected(part, own, role)]


@examples
@given(tables(ITEM_COLUMNS, ["item_id", "title"]))
def test_every_row_of_a_catalogue_is_an_item_or_counted(drawn: tuple) -> None:
    made, mapping = drawn
    own = {column: mapping.get(column, column) for column in ITEM_COLUMNS}
    roles = {own[column]: ROLES[column] for column in ITEM_COLUMNS}
    want: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paths = write(made, folder)
        refusals = refusal(made, paths, roles)
        for part in made:
            ids, titles = (
                shown(part, own[column], ROLES[column]) for column in ("item_id", "title")
            )
            for item, title in zip(map(twin.present, ids), titles, strict=True):
                if item is not None and twin.present(title) is not None:
                    want.setdefault(item, twin.prose(title) or str(twin.present(title)))
        path = paths[0] if len(paths) == 1 else folder / "part-*"
        section = {"path": str(path), "columns": mapping, "bad_rows": 1.0}
        try:
            catalogue, quarantine = read_catalogue(
                Config.model_validate({"threads": 1, "catalogue": section})
            )
        except ValueError as error:
            if not want and "holds no usable item" in str(error):
                return
            check_error(error, refusals, made)
            return
    assert not refusals, (refusals, made)
    items = catalogue.table.to_pylist()
    assert {item["item_id"]: item["title"] for item in items} == want, made
    assert quarantine.total == sum(map(len, made))
    assert quarantine.bad == quarantine.total - len(items) == len(quarantine.rows)


@examples
@given(st.data())
def test_profiles_of_users_are_what_the_file_has(data: st.DataObject) -> None:
    names = ["age", *data.draw(st.lists(st.sampled_from(ODD_NAMES), unique=True, max_size=3))]
    roles = dict.fromkeys(["user_id", *names], LABEL)
    made = data.draw(parts(["user_id"], names, roles))
    chosen = (
        [n for n in names if any(n in part.columns for part in made)]
        if data.draw(st.booleans())
        else []
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paths = write(made, folder)
        refusals = refusal(made, paths, roles)
        path = paths[0] if len(paths) == 1 else folder / "part-*"
        sections = {
            "users": {"path": str(path), "profile": chosen},
            "privacy": {"hash_users": False},
        }
        cfg = Config.model_validate({"threads": 1, **sections})
        with Duck(folder / "work", "256MB", 1) as duck:
            try:
                facts = write_users(duck, cfg, folder / "users.parquet")
                read = dict(duck.rows("SELECT user_id, profile FROM users"))
            except ValueError as error:
                check_error(error, refusals, made)
                return
    assert not refusals, (refusals, made)
    order = chosen or list(
        dict.fromkeys(n for part in made for n in _stored(part) if n != "user_id")
    )
    want: dict[str, str] = {}
    nameless = 0
    for part in made:
        columns = {column: shown(part, column, LABEL) for column in ["user_id", *order]}
        for row, user in enumerate(map(twin.present, columns["user_id"])):
            nameless += user is None
            told = [(column, twin.prose(columns[column][row])) for column in order]
            profile = "; ".join(f"{column}: {text}" for column, text in told if text is not None)
            if user is not None:
                want[user] = min(profile, want.get(user, profile), key=str.encode)
    assert read == want, made
    assert any(f"{nameless:,} rows of" in warning for warning in facts.warnings) == (nameless > 0)


def _stored(part: Part) -> list[str]:
    return sorted(part.columns) if "j" in part.format else list(part.columns)


@examples
@given(st.data())
def test_judgments_are_what_the_file_has(data: st.DataObject) -> None:
    wanted = ("query_id", "query", "item_id", "grade")
    names = {"query_id": data.draw(st.sampled_from(["query_id", "qid", "Query ID", "query-id"])),
    "query": "query",
             "item_id": data.draw(st.sampled_from(["item_id", "docid", "corpus-id"])),
             "grade": "rating"}  # fmt: skip
    roles = {names[column]: PROSE if column == "query" else LABEL for column in wanted}
    made = data.draw(parts([names[column] for column in wanted], ["unused", "meta data"],
                           {**roles, "unused": NESTED, "meta data": NESTED}))  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paths = write(made, folder)
        refusals = refusal(made, paths, roles)
        path = paths[0] if len(paths) == 1 else folder / "part-*"
        try:
            table = read_small(str(path), wanted, ("item_id", "grade"), "evaluate.sets s")
        except ValueError as error:
            check_error(error, refusals, made)
            return
    assert not refusals, (refusals, made)
    assert len(table) == sum(map(len, made))
    for column in wanted:
        values = [
            value for part in made for value in shown(part, names[column], roles[names[column]])
        ]
        if column.endswith("_id"):
            assert [v and lines(v) for v in map(twin.present, values)] == [
                v and lines(v) for v in table.columns[column]
            ], (column, made)
        elif column == "query":
            assert [lines(v or "").split() for v in values] == [
                lines(v or "").split() for v in table.columns[column]
            ], made
        else:
            assert [lines(v or "") for v in values] == [
                lines(v or "") for v in table.columns[column]
            ], made


@examples
@given(st.data())
def test_sid_tables_have_the_ids_of_the_catalogue(data: st.DataObject) -> None:
    format = data.draw(st.sampled_from(twin.FORMATS))
    rows = data.draw(st.integers(1, 5))
    columns = data.draw(columns_of(format, ["item_id"], {"item_id": LABEL}, rows))
    codes = data.draw(
        st.lists(
            st.lists(st.integers(0, 300), min_size=2, max_size=2), min_size=rows, max_size=rows
        )
    )
    listed = format == "parquet" or "j" in format
    values = (
        codes
        if listed
        else [
            data.draw(st.sampled_from(["{}-{}", "[{}, {}]", "<a_{}><b_{}>"])).format(*c)
            for c in codes
        ]
    )
    columns["sid"] = Column("list of codes" if listed else "text", values)
    made = [Part(format, columns, data.draw(dialects(format, columns)))]
    with tempfile.TemporaryDirectory() as temporary:
        paths = write(made, Path(temporary))
        refusals = refusal(made, paths, {"item_id": LABEL})
        items = [twin.present(value) for value in shown(made[0], "item_id", LABEL)]
        try:
            read = read_published(paths[0])
        except ValueError as error:
            entry = re.search(r"entry (\d+) has no item", str(error))
            if entry and items[int(entry[1]) - 1] is None:
                return
            if len(set(items)) < len(items) and "is listed twice" in str(error):
                return
            mixed = len({re.sub("[0-9, -]", "", v) for v in values}) > 1 if not listed else False
            if mixed and "order of levels" in str(error):
                return
            check_error(error, refusals, made)
            return
    assert not refusals, (refusals, made)
    assert list(map(lines, read.item_ids)) == [lines(str(item)) for item in items], (
        read.item_ids,
        made,
    )
    assert read.codes.tolist() == codes
