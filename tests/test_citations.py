"""What code and docs cite is there: files by name, source keys and marks by docs/sources.md."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCES = "docs/sources.md"
FOLDERS = ("src", "tests", "benchmarks", "docs", "experiments", "scripts")
TEXT = {".py", ".md", ".yaml", ".toml", ".sh", ""}
#: A path or a bare name that ends in .md or .py.
NAME = re.compile(r"(?<![\w./%-])((?:[\w.-]+/)*\w[\w-]*\.(?:md|py))\b")
#: Names of files that a run or a test writes, and that no checkout has.
WRITTEN = {"page.md", "tables.md", "evaluate/table.md", "readme.md", "x.md"}
KEY = re.compile(r"\bN\d{1,2}\b")
MARK = re.compile(r"\[(?:seed|ours|reconstruction|known|source)\b")


def texts():
    """{path below the root: text} of every file that a reader may open, results left out."""
    files = [
        ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "pyproject.toml")
    ]
    for folder in FOLDERS:
        files += [
            path for path in (ROOT / folder).rglob("*") if path.is_file() and path.suffix in TEXT
        ]
    passed_over = {"__pycache__", "results", ".ruff_cache"}
    kept = [path for path in files if not passed_over & set(path.relative_to(ROOT).parts)]
    # names of files that tests write
    made_up = {
        "test_evidence_rerun.py",
        "test_citations.py",
        "test_mutation.py",
        "test_extending.py",
        "test_extending_filter.py",
    }
    kept = [path for path in kept if path.name not in made_up]
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in kept}


def missing(where, cited, paths):
    """True where ``cited`` is no file beside ``where`` or below the root, and ends no path of
    ``paths``.
    """
    beside = (ROOT / where).parent
    if cited in WRITTEN or any((folder / cited).is_file() for folder in (beside, ROOT)):
        return False
    folder, _, name = cited.rpartition("/")
    spelt = (cited, f"{folder}/templates/{name}")  # pages are named by part: compare/page.md
    return not any(path == each or path.endswith(f"/{each}") for path in paths for each in spelt)


def test_every_cited_file_is_in_the_repository():
    found = texts()
    gone = [
        f"{where}: {cited}"
        for where, text in found.items()
        for cited in NAME.findall(text)
        if missing(where, cited, found)
    ]
    assert not gone


def test_a_cited_file_that_is_gone_is_named():
    assert NAME.findall("as handbook.md says (appendix.md, tests/reference_sid.py)") == [
        "handbook.md",
        "appendix.md",
        "tests/reference_sid.py",
    ]
    assert missing("docs/concepts.md", "handbook.md", ["docs/concepts.md"])
    assert not missing("docs/methods/sft.md", "../sources.md", [])


def test_no_section_is_cited_by_number():
    """Pages have headings and no numbers, so a number leads nowhere; a paper has its "section 4.1"
    or "eq. 2".
    """
    sign = chr(0xA7)
    assert not [where for where, text in texts().items() if sign in text]


def test_every_source_key_is_resolved():
    found = texts()
    resolved = set(re.findall(r"^\| (N\d+) \|", found[SOURCES], re.MULTILINE))
    cited = {
        key
        for where, text in found.items()
        if where.startswith(("src/", "docs/")) and where != SOURCES
        for line in text.splitlines()
        if "source: " in line or where.startswith("docs/methods/")
        for key in KEY.findall(line)
    }
    assert cited == resolved


def test_a_page_with_marks_links_to_their_meaning():
    pages = {
        where: text
        for where, text in texts().items()
        if where.startswith("docs/") and where != SOURCES
    }
    marked = {where for where, text in pages.items() if where.endswith(".md") and MARK.search(text)}
    assert marked
    assert not {where for where in marked if "sources.md)" not in pages[where]}
