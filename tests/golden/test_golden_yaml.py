"""Every key of ``sidar.yaml`` as it was recorded, and the keys of older versions."""

import pytest
import yaml
from golden import entry, observe
from golden.compare import differences, recorded
from golden.kept import RECORDED


@pytest.fixture(scope="module")
def keys():
    return observe.yaml_keys()


def _without(keys, *left_out):
    return {
        key: {name: v for name, v in about.items() if name not in left_out}
        for key, about in keys.items()
    }


def test_keys_have_their_types_defaults_and_limits(keys):
    now, before = (_without(both, "description") for both in (keys, recorded("yaml_keys")))
    now = {key: about for key, about in now.items() if key not in entry.NEW_KEYS}
    assert differences(now, before) == []


def test_descriptions_are_those_recorded(keys):
    now, before = (
        {key: about["description"] for key, about in both.items()}
        for both in (keys, recorded("yaml_keys"))
    )
    assert [line for line in differences(now, before) if not line.endswith(" is new")] == []


def test_every_default_may_be_written_out(tmp_path):
    """A file of ``sidar init --full`` says what an empty one does."""
    whole = tmp_path / "sidar.yaml"
    whole.write_text((RECORDED / "init-full.yaml").read_text())
    empty = tmp_path / "empty.yaml"
    empty.write_text("{}\n")
    assert entry.load_config(whole) == entry.load_config(empty)


def test_every_key_is_read(tmp_path):
    """Each default, given alone as an override, is taken and changes nothing."""
    plain = entry.load_config(None)
    refused = []
    for key, about in recorded("yaml_keys").items():
        section = "section" in about["type"] or key.startswith("lm.lora.")  # null as a whole
        if section or "[]" in key:
            continue
        value = (
            yaml.safe_dump(about["default"], default_flow_style=True).removesuffix("...\n").strip()
        )
        if entry.load_config(None, [f"{key}={value}"]) != plain:
            refused.append(key)
    assert refused == []


def _sections():
    return sorted(
        {key.rsplit(".", 1)[0] for key in recorded("yaml_keys") if "." in key and "[]" not in key}
    )


@pytest.mark.parametrize("section", ["", *_sections()])
def test_an_unknown_key_is_refused_by_name(section):
    key = f"{section}.nonsense".lstrip(".")
    if section == "lm.lora":
        given = ["lm.lora={nonsense: 1}"]
    elif section in ("data.held_out", "evaluate.sets"):
        given = [f"{section}=[{{queries: a, qrels: b, name: c, nonsense: 1}}]"]
    else:
        given = [f"{key}=1"]
    with pytest.raises(ValueError, match=r"nonsense"):
        entry.load_config(None, given)


def test_retired_keys_are_left_out_with_a_note(capsys):
    cfg = entry.load_config(None, ["decode.item_beam=8", "decode.search_beam=9", "decode.beam=7"])
    assert cfg.decode.beam == 7
    one_width = "tables, tuning and bundle search with one width, decode.beam"
    wide = "; for one more row of a wider beam set evaluate.wide_beam"
    assert capsys.readouterr().err.splitlines() == [
        f"note: decode.item_beam is no longer an option and is left out: {one_width}{wide}",
        f"note: decode.search_beam is no longer an option and is left out: {one_width}",
    ]


def test_older_forms_are_read():
    cfg = entry.load_config(
        None,
        [
            "split.test_day=-2",
            "split.valid_day=-3",
            "sid.table=ids.json",
            "data.held_out=[held.tsv]",
        ],
    )
    assert (cfg.split.test_day, cfg.split.valid_day) == (-2, -3)
    assert cfg.sid.table.path.endswith("ids.json")
    assert cfg.data.held_out[0].queries.endswith("held.tsv")
    assert cfg.data.held_out[0].match == "near"
