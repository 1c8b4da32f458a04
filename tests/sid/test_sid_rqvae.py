"""RQ-VAE behind the tokenizer interface: it learns, it resumes bit by bit, it says when it
collapses.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import reference_rqvae
import torch
from shops import topics

from sidar.config import RqVaeConfig, SidConfig
from sidar.sid import RqKmeans, RqVae, load_tokenizer
from sidar.sid.autoencoders.fit import AutoencoderFit, batch_rows
from sidar.sid.autoencoders.fit_picture import draw_fit
from sidar.sid.collapse import collapsed
from sidar.sid.stage import fit_catalogue
from sidar.types import SidInputs

SMALL = {
    "hidden": [32],
    "latent": 12,
    "steps": 60,
    "batch_size": 64,
    "log_every": 10,
    "checkpoint_every": 20,
}
SMALL |= {"precision": "fp32", "restart_every": 5}


def fitted(
    x: np.ndarray, sizes: tuple[int, ...] = (16, 8, 4), seed: int = 0, **options: object
) -> RqVae:
    return RqVae(sizes, seed, options={**SMALL, **options}).fit(SidInputs(x))


def error(tokenizer: RqVae, x: np.ndarray) -> float:
    return float(
        np.square(x - tokenizer.reconstruct(tokenizer.encode(SidInputs(x)).codes)).sum(1).mean()
    )


def test_training_lowers_the_error_below_its_start_and_the_mean() -> None:
    x = topics(700)
    before, after = fitted(x, steps=0, latent=4), fitted(x, steps=150, latent=4)
    assert error(after, x) < 0.85 * error(before, x) < 0.85 * np.square(x - x.mean(0)).sum(1).mean()
    told = [record["error"] for record in after.history_]
    assert told[-1] < 0.85 * told[0]
    assert [record["step"] for record in after.history_] == list(range(10, 151, 10))


def test_without_training_pca_start_is_residual_k_means() -> None:
    x = topics(700)
    start = fitted(x, steps=0, latent=24)
    plain = RqKmeans((16, 8, 4), precision="fp32").fit(SidInputs(x))
    codes = plain.encode(SidInputs(x)).codes
    restored = sum(book[codes[:, level]] for level, book in enumerate(plain.codebooks_))
    assert error(start, x) == pytest.approx(float(np.square(x - restored).sum(1).mean()), rel=0.05)
    rough = fitted(x, steps=0, start="random")
    assert error(rough, x) > 1.3 * error(start, x)
    assert error(fitted(x, steps=150, start="random"), x) < 0.9 * error(rough, x)


def test_codes_are_the_nearest_in_latent_space() -> None:
    x, new = topics(500), topics(60, seed=9)
    tokenizer = fitted(x)
    books = [book.numpy() for book in tokenizer.model.quantiser.books]
    z = tokenizer.latents(new)
    codes = tokenizer.encode(SidInputs(new)).codes
    assert codes.dtype == np.int32
    np.testing.assert_array_equal(codes, reference_rqvae.assign(z, books)[0])
    with torch.no_grad():
        sums = sum(torch.from_numpy(book)[codes[:, level]] for level, book in enumerate(books))
        np.testing.assert_allclose(
            tokenizer.reconstruct(codes), tokenizer.model.decode(sums).numpy(), atol=1e-6
        )


def test_encoding_in_blocks_and_prefixes(monkeypatch: pytest.MonkeyPatch) -> None:
    x = topics(300)
    tokenizer = fitted(x)
    whole = tokenizer.encode(SidInputs(x)).codes
    restored = tokenizer.reconstruct(whole)
    monkeypatch.setattr("sidar.sid.tokenizers.rqvae._BLOCK", 37)
    np.testing.assert_array_equal(tokenizer.encode(SidInputs(x)).codes, whole)
    np.testing.assert_allclose(tokenizer.reconstruct(whole), restored, atol=1e-6)
    cut = np.where(np.arange(3) < 2, whole, -1)
    np.testing.assert_allclose(
        tokenizer.reconstruct(cut), tokenizer.reconstruct(whole[:, :2]), atol=1e-6
    )
    assert len(tokenizer.encode(SidInputs(x[:0]))) == 0


def test_stand_in_codebooks_are_means_in_the_space_of_the_vectors() -> None:
    x = topics(400)
    tokenizer = fitted(x)
    codes = tokenizer.encode(SidInputs(x)).codes
    first = tokenizer.codebooks_[0]
    for code in np.unique(codes[:, 0]):
        np.testing.assert_allclose(first[code], x[codes[:, 0] == code].mean(0), atol=1e-5)
    rest = x - first[codes[:, 0]]
    some = codes[0, 1]
    np.testing.assert_allclose(
        tokenizer.codebooks_[1][some], rest[codes[:, 1] == some].mean(0), atol=1e-5
    )
    assert [book.shape for book in tokenizer.codebooks_] == [(16, 24), (8, 24), (4, 24)]


def test_the_same_seed_gives_the_same_tokenizer_and_saving_keeps_it(tmp_path: Path) -> None:
    x = topics(300)
    one, two, other = fitted(x, seed=3), fitted(x, seed=3), fitted(x, seed=4)
    for name, tensor in one.model.state_dict().items():
        assert torch.equal(tensor, two.model.state_dict()[name]), name
    assert not torch.equal(one.model.inward, other.model.inward)
    one.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.params() == one.params()
    assert loaded.history_ == one.history_
    new = SidInputs(topics(80, seed=5))
    np.testing.assert_array_equal(loaded.encode(new).codes, one.encode(new).codes)
    np.testing.assert_array_equal(
        loaded.reconstruct(loaded.encode(new).codes), one.reconstruct(one.encode(new).codes)
    )
    two.save(tmp_path / "..")
    for name in ("autoencoder.safetensors", "codebooks.safetensors", "fit.jsonl", "tokenizer.json"):
        assert (tmp_path / name).read_bytes() == (tmp_path / ".." / name).read_bytes()


def test_progressive_masking_makes_prefixes_mean_something() -> None:
    """PLUM's random prefixes: with one code known, the decoder restores better than
    without them.
    """
    x = topics(600)
    plain, masked = fitted(x, steps=150), fitted(x, steps=150, progressive=True)
    first = [t.reconstruct(t.encode(SidInputs(x)).codes[:, :1]) for t in (plain, masked)]
    errors = [float(np.square(x - restored).sum(1).mean()) for restored in first]
    assert errors[1] < errors[0]


def test_a_fit_without_a_terminal_speaks_five_times(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = RqVae((16, 8, 4), options=SMALL)
    tokenizer.work, tokenizer.progress = tmp_path, True
    tokenizer.fit(SidInputs(topics(300)))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("rqvae step")]
    assert [int(line.split()[2].rstrip(":")) for line in lines] == [20, 30, 40, 50, 60]
    assert all("error " in line for line in lines)


# Interrupted work


class Killed(Exception):
    pass


@pytest.mark.parametrize("at", [7, 20, 33, 59])
def test_a_killed_fit_continues_and_ends_bit_identical(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = topics(300)
    undisturbed = RqVae((16, 8, 4), options=SMALL)
    undisturbed.work = tmp_path / "one"
    undisturbed.fit(SidInputs(x))
    step = AutoencoderFit._step

    def dies(self: AutoencoderFit, number: int) -> tuple:
        if number == at:
            raise Killed
        return step(self, number)

    resumed = RqVae((16, 8, 4), options=SMALL)
    resumed.work = tmp_path / "two"
    monkeypatch.setattr(AutoencoderFit, "_step", dies)
    with pytest.raises(Killed):
        resumed.fit(SidInputs(x))
    steps = []

    def counts(self: AutoencoderFit, number: int) -> tuple:
        steps.append(number)
        return step(self, number)

    monkeypatch.setattr(AutoencoderFit, "_step", counts)
    resumed.fit(SidInputs(x))
    assert steps[0] == at // 20 * 20  # the last checkpoint
    for folder, tokenizer in (("a", undisturbed), ("b", resumed)):
        (tmp_path / folder).mkdir()
        tokenizer.save(tmp_path / folder)
    for name in ("autoencoder.safetensors", "codebooks.safetensors", "fit.jsonl"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    logs = [(tmp_path / folder / "log.jsonl").read_text().splitlines() for folder in ("one", "two")]
    kept = [
        [
            {k: v for k, v in json.loads(line).items() if k not in ("vectors_per_s", "seconds")}
            for line in log
        ]
        for log in logs
    ]
    assert kept[0] == kept[1]
    steps.clear()
    resumed.fit(SidInputs(x))  # finished work is not done again
    assert steps == []


def test_kill_9_between_two_checkpoints(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from shops import topics\n"
        "from test_sid_rqvae import SMALL\n"
        "from sidar.sid import RqVae\n"
        "from sidar.sid.autoencoders.fit import AutoencoderFit\n"
        "from sidar.types import SidInputs\n"
        "step = AutoencoderFit._step\n"
        "def maybe(self, number):\n"
        "    if number == int(sys.argv[3]):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return step(self, number)\n"
        "AutoencoderFit._step = maybe\n"
        "tokenizer = RqVae((16, 8, 4), options=SMALL)\n"
        "tokenizer.work = Path(sys.argv[2]) / 'work'\n"
        "tokenizer.fit(SidInputs(topics(300))).save(sys.argv[2])\n"
    )
    here = Path(__file__).parent
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
        "PYTHONPATH": str(here.parent),
    }
    rc = []
    for dies_at in (47, -1):
        command = [sys.executable, "-c", script, str(here), str(tmp_path), str(dies_at)]
        rc.append(subprocess.run(command, env=environment, capture_output=True).returncode)
    assert rc == [-signal.SIGKILL, 0]
    loaded = load_tokenizer(tmp_path)
    for name, tensor in fitted(topics(300)).model.state_dict().items():
        assert torch.equal(tensor, loaded.model.state_dict()[name]), name


def test_work_of_another_fit_is_discarded_with_a_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    x, other = topics(200), topics(200, seed=1)
    for sizes, options, vectors, said in (
        ((16, 8, 4), {}, x, ""),
        ((16, 8, 4), {"beta": 0.5}, x, "config.beta: 0.25 -> 0.5"),
        ((8, 8, 4), {"beta": 0.5}, x, "codebook_sizes"),
        ((8, 8, 4), {"beta": 0.5}, other, "vectors"),
    ):
        tokenizer = RqVae(sizes, options={**SMALL, **options})
        tokenizer.work, tokenizer.progress = tmp_path, True
        got, want = tokenizer.fit(SidInputs(vectors)), fitted(vectors, sizes, **options)
        told = " ".join(capfd.readouterr().err.split())
        assert told.count("starting afresh") == bool(said)
        assert said in told
        for name, tensor in got.model.state_dict().items():
            assert torch.equal(tensor, want.model.state_dict()[name]), name


def test_batches_are_the_epochs_one_after_the_other() -> None:
    rows = np.concatenate([batch_rows(10, 4, seed=0, step=step) for step in range(5)])
    assert sorted(rows[:10]) == sorted(rows[10:]) == list(range(10))
    assert rows[:10].tolist() != rows[10:].tolist()


# Collapse


def test_collapse_is_counted_over_the_codes_that_could_be_used() -> None:
    codes = np.stack([np.arange(100) % 3, np.arange(100) % 8, np.zeros(100, int)], axis=1)
    found = collapsed(codes, (16, 8, 4), None, distinct=100)
    assert [(f["level"], f["used"], f["usable"]) for f in found] == [(1, 3, 16), (3, 1, 4)]
    # a guided level with 3 categories
    assert collapsed(codes, (16, 8, 4), [3, 8, 4], distinct=100)[0]["level"] == 3
    assert collapsed(codes, (16, 8, 4), None, distinct=3) == []  # three vectors cannot use more
    short = np.where(np.arange(100)[:, None] < 4, codes, [-1, -1, -1])
    assert collapsed(short, (16, 8, 4), None, distinct=100) == []  # few items have the level at all


def test_a_collapsed_fit_says_so_with_the_remedy(tmp_path: Path) -> None:
    """The encoder runs away from codebooks that hardly move; with the remedies of the message it
    does not.
    """
    x = topics(600)
    bad = {"lr": 0.05, "decay": 0.9999, "dead_below": 0.0, "start": "random", "beta": 0.0}
    collapsing = fitted(x, (32, 16), steps=120, **bad)
    said = [record["warning"] for record in collapsing.history_ if "warning" in record]
    assert "level 1 has collapsed" in said[0]
    assert "lower sid.rqvae.lr or decay" in said[0]
    for remedy in ({"decay": 0.9, "dead_below": 0.05}, {"beta": 1.0, "lr": 0.005}):
        healthy = fitted(x, (32, 16), steps=120, **{**bad, **remedy})
        assert not [record for record in healthy.history_ if "warning" in record], remedy
    draw_fit(collapsing.history_, tmp_path / "fit.png", "rqvae")
    draw_fit([], tmp_path / "none.png")
    assert (tmp_path / "fit.png").stat().st_size > 20_000


# Odd inputs


@pytest.mark.parametrize(
    "x",
    [
        np.ones((1, 5)),
        np.ones((9, 5)),
        np.zeros((3, 5)),
        np.eye(5),
        np.repeat(np.eye(5), 3, axis=0),
    ],
)
@pytest.mark.parametrize("start", ["pca", "random"])
def test_few_or_equal_vectors(x: np.ndarray, start: str) -> None:
    tokenizer = fitted(x.astype(np.float32), start=start, steps=12)
    sids = tokenizer.encode(SidInputs(x.astype(np.float32)))
    assert len(np.unique(sids.codes, axis=0)) <= len(np.unique(x, axis=0))
    groups = np.unique(x, axis=0, return_inverse=True)[1].reshape(-1)
    for group in np.unique(groups):  # identical vectors share their SID
        assert len(np.unique(sids.codes[groups == group], axis=0)) == 1
    assert all(np.isfinite(book).all() for book in tokenizer.codebooks_)
    assert np.isfinite(tokenizer.reconstruct(sids.codes)).all()


def test_errors_name_row_item_and_next_step() -> None:
    x = topics(60)
    bad = x.copy()
    bad[7, 3] = np.nan
    with pytest.raises(ValueError, match="row 7 is not finite"):
        fitted(bad)
    with pytest.raises(ValueError, match="item 'p7', row 7 is not finite"):
        RqVae((4, 2), options=SMALL).fit(SidInputs(bad, item_ids=[f"p{i}" for i in range(60)]))
    with pytest.raises(ValueError, match="call fit first"):
        RqVae((4, 2)).encode(SidInputs(x))
    with pytest.raises(ValueError, match="catalogue is empty"):
        fitted(x[:0])
    with pytest.raises(ValueError, match="must be positive"):
        RqVae((4, 0))
    with pytest.raises(ValueError, match="have 9 dimensions, the codebooks 24"):
        fitted(x, steps=1).encode(SidInputs(x[:, :9]))
    with pytest.raises(ValueError, match=r"lower sid\.rqvae\.lr"):
        fitted(x, lr=1e30, clip=0.0)


def test_it_is_chosen_in_one_line() -> None:
    config = SidConfig.model_validate(
        {"method": "rqvae", "codebook_sizes": [8, 4, 2], "rqvae": SMALL}
    )
    tokenizer, sids, tried = fit_catalogue(config, SidInputs(topics(200)), 0)
    assert isinstance(tokenizer, RqVae)
    assert tokenizer.options == RqVaeConfig.model_validate(SMALL)
    assert (sids.method, sids.codebook_sizes, list(tried)) == ("rqvae", (8, 4, 2), ["8/4/2"])
