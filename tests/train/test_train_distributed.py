"""Two processes train what one does: each takes half of every batch, gradients are averaged,
anchors gathered.
"""

import os

import pytest
import torch
import torch.multiprocessing as mp
from toy_train import align_task, quick, tiny_model, write_backbone

from sidar.config import AlignConfig
from sidar.train.loop import fit

CFG = quick(
    AlignConfig,
    steps=4,
    rdrw_window=4096,
    item_share=0.0,
    lr_new=1e-3,
    lr_pretrained=1e-3,
    validate_every=2,
)


def train(folder, ranks):
    task = align_task(tiny_model(folder / "backbone"), CFG)
    fit(
        task,
        CFG,
        seed=0,
        device="cpu",
        work=folder / f"work{ranks}",
        identity={},
        title="toy",
        progress=False,
    )
    return task


def _rank(rank, folder):
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
    }
    os.environ |= {"MASTER_PORT": (folder / "port").read_text(), "OMP_NUM_THREADS": "1"}
    torch.set_num_threads(1)
    task = train(folder, 2)
    torch.save([task.model.state_dict(), task.window.state_dict()], folder / f"rank{rank}.pt")


def test_two_processes_train_what_one_does(tmp_path):
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        (tmp_path / "port").write_text(str(free.getsockname()[1]))
    write_backbone(tmp_path / "backbone")
    mp.spawn(_rank, args=(tmp_path,), nprocs=2)
    alone = train(tmp_path, 1)
    (first, window), (second, other_window) = (torch.load(tmp_path / f"rank{r}.pt") for r in (0, 1))
    assert window == other_window
    both = sorted(alone.window.state_dict()["values"])
    # the same pairs, one order per rank
    assert sorted(window["values"]) == pytest.approx(both, abs=1e-3)
    for name, parameter in alone.model.state_dict().items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], parameter, atol=2e-5, rtol=0)
    assert (tmp_path / "work2" / "log.jsonl").is_file()
