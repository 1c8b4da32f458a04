import json

import pytest

from sidar.artifacts import open_artifact, read_manifest, replace_file, write_artifact


def write(folder, text="a", **config):
    with write_artifact(folder, "toy", config=config, inputs={"data": "h"}) as draft:
        (draft.path / "x.txt").write_text(text)
        draft.shapes["n"] = 1
    return read_manifest(folder)


def test_an_artefact_says_what_it_is_and_is_verified(tmp_path):
    manifest = write(tmp_path / "a", k=1)
    assert (manifest.kind, manifest.config, manifest.shapes) == ("toy", {"k": 1}, {"n": 1})
    assert open_artifact(tmp_path / "a", "toy", verify=True).hash == manifest.hash
    (tmp_path / "a" / "x.txt").write_text("b")
    with pytest.raises(ValueError, match=r"x\.txt is missing or differs"):
        open_artifact(tmp_path / "a", "toy", verify=True)


def test_the_hash_names_config_inputs_and_content(tmp_path):
    same = [write(tmp_path / name, k=1).hash for name in "ab"]
    assert same[0] == same[1]
    assert write(tmp_path / "c", k=2).hash != same[0]
    assert write(tmp_path / "d", text="b", k=1).hash != same[0]


def test_a_failed_stage_leaves_the_old_artefact_and_no_rubbish(tmp_path):
    before = write(tmp_path / "a", k=1)
    with (
        pytest.raises(ZeroDivisionError),
        write_artifact(tmp_path / "a", "toy", config={}) as draft,
    ):
        (draft.path / "x.txt").write_text(str(1 / 0))
    assert read_manifest(tmp_path / "a") == before
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("killed_in", ["os.fsync", "pathlib.Path.replace"])
def test_a_killed_write_leaves_the_old_file(tmp_path, monkeypatch, killed_in):
    path = tmp_path / "steps.json"
    replace_file(path, "old")

    def dies(*given):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(killed_in, dies)
        with pytest.raises(KeyboardInterrupt):
            replace_file(path, "new")
    assert path.read_text() == "old"
    replace_file(path, "new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("steps.json", "new")]


def test_errors_name_the_folder_and_the_next_step(tmp_path):
    with pytest.raises(ValueError, match="make it with `sidar sid`"):
        open_artifact(tmp_path / "none", "sid")
    write(tmp_path / "a")
    with pytest.raises(ValueError, match="holds a 'toy' artefact, not 'sid'"):
        open_artifact(tmp_path / "a", "sid")
    (tmp_path / "a" / "manifest.json").write_text(json.dumps({"kind": "toy"}))
    with pytest.raises(ValueError, match="is not a manifest"):
        read_manifest(tmp_path / "a")


def test_a_folder_kept_apart_is_verified_and_not_hashed(tmp_path):
    hashes = []
    for text in ("a", "b"):
        with write_artifact(tmp_path / "d", "d", config={}, apart=("eval",)) as draft:
            (draft.path / "eval" / "deep").mkdir(parents=True)
            (draft.path / "eval" / "deep" / "x").write_text(text)
            (draft.path / "evaluate").write_text("counts")
        manifest = open_artifact(tmp_path / "d", "d", verify=True)
        assert (list(manifest.files), list(manifest.apart)) == (["evaluate"], ["eval/deep/x"])
        hashes.append(manifest.hash)
    assert hashes[0] == hashes[1]
    (tmp_path / "d" / "eval" / "deep" / "x").write_text("c")
    with pytest.raises(ValueError, match="differs from its manifest"):
        open_artifact(tmp_path / "d", "d", verify=True)
