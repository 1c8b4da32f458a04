"""What a training stage is handed and what it leaves, around a training that is over at once."""

from toy_train import tiny_model, write_backbone

from sidar.lm import SidLM
from sidar.train.loop import Fit
from sidar.train.stage import finish


def test_training_gets_a_work_folder_and_leaves_a_model_and_its_log(tmp_path):
    model = tiny_model(write_backbone(tmp_path / "backbone"))
    out = tmp_path / "deep" / "sft"

    def train(folder):
        # the folder is there, with all its parents
        (folder / "log.jsonl").write_text('{"step": 1}\n')
        return Fit(loss=1.5, best={"step": 1}, final={"step": 1})

    report = finish(train, model, out, None, {"lists": 3})
    assert (out / "log.jsonl").read_text() == '{"step": 1}\n'
    # the work folder is cleared away
    assert {path.name for path in out.parent.iterdir()} == {"sft"}
    assert SidLM.from_pretrained(out / "model").vocab.codebook_sizes == model.vocab.codebook_sizes
    assert (report["loss"], report["lists"], report["shapes"]["lists"]) == (1.5, 3, 3)
    assert "nothing validated" in report["summary"]

    kept = finish(train, model, tmp_path / "again", tmp_path / "work", {})
    assert (tmp_path / "work" / "log.jsonl").is_file()  # its owner deletes it
    assert kept["shapes"]["weights"] == sum(weight.numel() for weight in model.parameters())
