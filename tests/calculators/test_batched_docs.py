"""What docs/batched.md shows runs as it stands there, from top to bottom."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from ase.build import bulk
from ase.io import read
from many import shaken
from pages import DOCS, Block, blocks, gfmpot, run

SHOWN = blocks(DOCS / "batched.md")


def of_torch_sim(block: Block) -> bool:
    return "import torch_sim" in block.text


def test_every_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    own = [block for block in SHOWN if not of_torch_sim(block)]
    assert [block.language for block in own].count("python") == 6
    run(own, names, gfmpot)
    assert [one.error for one in names["relaxed"]] == [None] * 3
    assert [one.summary.steps_run for one in names["runs"]] == [20, 20, 20]
    assert len(read("runs/2.traj", ":")) == 5
    assert {"0-0.extxyz", "1-0.extxyz"} <= {path.name for path in Path("relaxed").iterdir()}


def test_torch_sim() -> None:
    names: dict[str, Any] = {"structures": [shaken(bulk("MgO", "rocksalt", 4.3)), bulk("NaCl", "rocksalt", 5.5)]}
    with warnings.catch_warnings():  # torch-sim 0.3 imports what PyTorch and vesin have deprecated since
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", DeprecationWarning)
        warnings.filterwarnings("ignore", "`vesin.torch` is deprecated", DeprecationWarning)
        ts = pytest.importorskip("torch_sim", reason='torch-sim is not installed: pip install "gfmpot[md]"')
        if not hasattr(ts, "frechet_cell_fire"):
            pytest.skip("the guide says that other versions of torch-sim have other names")
        (block,) = filter(of_torch_sim, SHOWN)
        run([block], names, gfmpot)
    assert names["final"].energy.shape == (2,)
