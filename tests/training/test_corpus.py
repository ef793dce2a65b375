"""A branch of several stores."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk, molecule
from packed import rattled, write_packed

from gfmpot.data import FrameSet
from gfmpot.data.conversion import Settings, convert, describe
from gfmpot.data.formats.manifest import SplitSettings
from gfmpot.data.source import build_source
from gfmpot.training.config import BranchData, SplitConfig
from gfmpot.training.corpus import read_branch


def store(folder: Path, name: str, split: tuple[float, float]) -> Path:
    """Forty rattled copper cells, a group each."""
    cells = [rattled(bulk("Cu", cubic=True), seed) for seed in range(40)]
    packed = write_packed(folder / f"{name}.npz", FrameSet.from_atoms(cells))
    source, out = build_source("npz"), folder / f"{name}.bp"
    about = describe(source, "npz", [packed], branch="emt", theory="EMT")
    convert(source, [packed], out, about, settings=Settings(SplitSettings(*split), 100.0, 5))
    return out


def test_a_store_of_training_structures_adds_to_one_with_all_splits(tmp_path: Path) -> None:
    whole, more = store(tmp_path, "whole", (0.2, 0.2)), store(tmp_path, "more", (0.0, 0.0))
    alone, both = (
        read_branch(BranchData(files=tuple(path.name for path in paths)), paths, SplitConfig())
        for paths in ([whole], [whole, more])
    )
    assert len(both.splits["train"]) == len(alone.splits["train"]) + 40
    for side in ("valid", "test"):
        assert len(both.splits[side]) == len(alone.splits[side]) > 0
    assert both.info.n_structures == len(both.splits["train"])
    # What is trained on alone teaches neither the blend nor the estimates of errors.
    assert len(both.drawn_from("train")) == len(alone.splits["train"]) == len(alone.drawn_from("train"))
    assert both.drawn_from("test") is both.splits["test"]
    with pytest.raises(ValueError, match=re.escape("more.bp: only the splits train; training needs train, valid")):
        read_branch(BranchData(files=("more.bp",)), [more], SplitConfig())


def test_the_share_of_periodic_structures_is_counted(tmp_path: Path) -> None:
    cells = [rattled(bulk("Cu", cubic=True), seed) for seed in range(40)]
    molecules = [rattled(molecule("CH4"), seed) for seed in range(40)]
    packed = write_packed(tmp_path / "both.npz", FrameSet.from_atoms(cells + molecules))
    config = BranchData(files=(packed.name,), name="emt", min_structures_per_element=1)
    corpus = read_branch(config, [packed], SplitConfig(valid=0.2, test=0.2))
    train = corpus.splits["train"].subset(np.arange(len(corpus.splits["train"])))
    assert corpus.info.periodic == np.mean([29 in train.graph(i, 5.0, 0).atomic_numbers for i in range(len(train))])
    assert 0 < corpus.info.periodic < 1
    path = store(tmp_path, "crystals", (0.2, 0.2))
    assert read_branch(BranchData(files=(path.name,)), [path], SplitConfig()).info.periodic == 1


def test_stores_of_the_same_name_in_two_folders(tmp_path: Path) -> None:
    """Each has its place in what tells a run whether its data are the same."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    stores = store(tmp_path / "a", "md", (0.2, 0.2)), store(tmp_path / "b", "md", (0.0, 0.0))
    corpus = read_branch(BranchData(files=("a/md.bp", "b/md.bp")), stores, SplitConfig())
    assert corpus.manifest.keys() == {"a/md.bp", "b/md.bp"}
    assert len(set(corpus.manifest.values())) == 2
