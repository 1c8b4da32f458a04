"""Keys and values of the config that YAML types."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidar.config import load_config


@pytest.mark.parametrize(
    "word", ["0", "yes", "on", "2023-01-01", "1.50", "0x1F", "true", "~", "007", "1_000", "No"]
)
def test_keys_and_names_are_text_as_written(tmp_path: Path, word: str) -> None:
    file = tmp_path / "sidar.yaml"
    file.write_text(
        f"events:\n  actions: {{{word}: click}}\n  columns: {{action: {word}x, query: '{word}'}}\n"
    )
    events = load_config(file).events
    assert events.actions == {word: "click"}
    assert events.columns == {"action": f"{word}x", "query": word}
    if word != "~":
        file.write_text(
            f"users: {{path: u.csv, profile: [{word}]}}\ncatalogue:\n  columns:\n    brand: "
            f"{word}\n"
        )
        config = load_config(
            file, [f"events.columns.action={word}", f"events.actions={{{word}: cart}}"]
        )
        assert (config.users.profile, config.catalogue.columns) == ([word], {"brand": word})
        assert (config.events.columns, config.events.actions) == ({"action": word}, {word: "cart"})


def test_other_values_keep_their_types_and_say_what_to_quote(tmp_path: Path) -> None:
    file = tmp_path / "sidar.yaml"
    file.write_text(
        "base: &a {hash_users: no}\nprivacy: {<<: *a, min_users: 2}\n".replace("base", "privacy_")
    )
    with pytest.raises(ValueError, match=r"privacy_: .*did you mean privacy\?"):
        load_config(file)
    file.write_text("privacy: {hash_users: no, min_users: 2, salt: 0123}\nname: yes\n")
    with pytest.raises(ValueError, match=r"salt.*quote it") as told:
        load_config(file)
    assert "YAML reads it as True: quote it" in str(told.value)
    file.write_text("events: {columns: {action: }}\n")
    with pytest.raises(
        ValueError, match=r"events\.columns\.action: Input should be a valid string"
    ):
        load_config(file)
