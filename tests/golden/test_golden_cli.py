"""The command line as it was recorded: commands, options, help."""

import pytest
from golden import entry, observe
from golden.compare import differences, recorded
from golden.kept import RECORDED


@pytest.fixture(scope="module")
def commands():
    return observe.commands()


def _parameters(commands, *left_out):
    """``{command --option: what it is}``, without the fields ``left_out``."""
    return {
        f"{command} {name}": {key: value for key, value in about.items() if key not in left_out}
        for command, described in commands.items()
        for name, about in described["parameters"].items()
    }


def test_commands_are_those_recorded(commands):
    assert set(commands) - entry.NEW_COMMANDS == set(recorded("commands"))


def test_options_have_their_names_types_and_defaults(commands):
    now, before = (_parameters(one, "help") for one in (commands, recorded("commands")))
    now = {
        name: about
        for name, about in now.items()
        if not name.startswith(tuple(entry.NEW_COMMANDS) or ("\n",))
    }
    assert differences(now, before) == []


def test_help_texts_are_those_recorded(commands):
    now, before = (
        {name: one["help"] for name, one in both.items()}
        | {name: about["help"] for name, about in _parameters(both).items()}
        for both in (commands, recorded("commands"))
    )
    assert [line for line in differences(now, before) if not line.endswith(" is new")] == []


@pytest.mark.parametrize("command", sorted(recorded("commands")))
def test_help_is_printed(command):
    """Each name that one can type stands in the output, whatever draws its boxes."""
    code, text, error = observe.call(*command.split()[1:], "--help")
    assert (code, error) == (0, "")
    about = recorded("commands")[command]["parameters"].values()
    squeezed = "".join(text.split())
    assert [name for one in about for name in one["names"] if name not in squeezed] == []


@pytest.mark.parametrize(("option", "file"), [((), "init.yaml"), (("--full",), "init-full.yaml")])
def test_init_writes_the_recorded_file(option, file, tmp_path):
    code, text, _ = observe.call("init", tmp_path, *option)
    assert code == 0
    assert "sidar run -c" in " ".join(text.split())
    assert (tmp_path / "sidar.yaml").read_text() == (RECORDED / file).read_text()
