"""Checkpoints: strict, versioned, verified, found offline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gfmpot.models import BranchInfo, CheckpointError, HeadConfig, Potential, PotentialConfig, load, save
from gfmpot.models.backbones.painn import PaiNNConfig
from gfmpot.models.checkpoint import _digest, available_models, fingerprint


@pytest.fixture
def potential() -> Potential:
    config = PotentialConfig(PaiNNConfig(hidden=8, layers=1), HeadConfig(shared_layers=0, branch_width=8))
    branches = [BranchInfo("a-pbe", "PBE", e0={"H": -1.0 / 3.0}, alignment={"H": 0.1}, states=((-1, 2), (0, 1)))]
    with torch.random.fork_rng(devices=[]):
        return Potential(config, branches, {"H": -1.0}, {"name": "mini", "metrics": {"mae": 0.1}})


@pytest.fixture
def file(potential: Potential, tmp_path: Path) -> Path:
    return save(potential, tmp_path / "mini.safetensors")


def header(file: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(str(file), "pt") as opened:
        return dict(opened.metadata())


def test_round_trip(potential: Potential, file: Path) -> None:
    loaded = load(file)
    assert loaded.branches == potential.branches
    assert loaded.config == potential.config
    assert loaded.metadata == potential.metadata
    assert loaded.e0_blend == potential.e0_blend
    for name, tensor in potential.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    assert not list(file.parent.glob("*.partial"))


def test_precision_is_kept(potential: Potential, tmp_path: Path) -> None:
    assert load(save(potential.double(), tmp_path / "x.safetensors")).dtype == torch.float64


def test_names_come_from_package_then_cache(
    potential: Potential, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GFMPOT_CACHE", str(tmp_path))
    save(potential, tmp_path / "mine.safetensors")
    assert "mine" in available_models()
    assert load("mine").branch_names == ["a-pbe"]
    with pytest.raises(CheckpointError, match="did you mean 'mine'"):
        load("mne")


def test_truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="truncated"):
        load(file)


def test_changed_weights(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-10] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match="SHA-256"):
        load(file)


def test_changed_header(file: Path) -> None:
    data = file.read_bytes()
    assert b"a-pbe" in data
    file.write_bytes(data.replace(b"a-pbe", b"b-pbe"))
    with pytest.raises(CheckpointError, match="SHA-256"):
        load(file)


def test_foreign_files(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.safetensors"
    save_file({"w": torch.zeros(3)}, foreign)
    with pytest.raises(CheckpointError, match="not a gfmpot model"):
        load(foreign)
    pickled = tmp_path / "model.pt"
    torch.save({"w": torch.zeros(3)}, pickled)
    with pytest.raises(CheckpointError, match="PyTorch or pickle"):
        load(pickled)
    text = tmp_path / "note.txt"
    text.write_text("hello, not a model at all")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load(text)


def rewritten(file: Path, prefix: str = "", version: str | None = None, **changes: object) -> Path:
    """The file with other tensors or header, and a matching digest."""
    meta, tensors = header(file), load_file(file)
    tensors = {prefix + name: tensor for name, tensor in tensors.items()}
    meta["header"] = json.dumps({**json.loads(meta["header"]), **changes})
    meta["version"] = version or meta["version"]
    meta["sha256"] = _digest(meta["header"], tensors)
    save_file(tensors, file, meta)
    return file


def test_prefixed_weights_are_not_ignored(file: Path) -> None:
    with pytest.raises(CheckpointError, match=r"missing backbone(.|\n)*unexpected module\.backbone"):
        load(rewritten(file, prefix="module."))


def test_newer_version(file: Path) -> None:
    with pytest.raises(CheckpointError, match="upgrade gfmpot"):
        load(rewritten(file, version="99"))


def test_charges_and_multiplicities_of_before_may_all_have_met(file: Path) -> None:
    (branch,) = json.loads(header(file)["header"])["branches"]
    assert branch.pop("states") == [[-1, 2], [0, 1]]
    old = rewritten(file, version="3", branches=[{**branch, "charges": [-1, 0], "spins": [1, 2]}])
    assert load(old).branches[0].states == ((-1, 1), (-1, 2), (0, 1), (0, 2))
    old = rewritten(file, version="3", branches=[{**branch, "charges": [1]}])
    assert load(old).branches[0].states == tuple((1, spin) for spin in range(8))


def test_boundaries_of_before_are_not_known(file: Path) -> None:
    (branch,) = json.loads(header(file)["header"])["branches"]
    del branch["periodic"]
    assert load(rewritten(file, version="5", branches=[branch])).branches[0].periodic is None


def test_unknown_settings(file: Path) -> None:
    config = json.loads(header(file)["header"])["config"]
    with pytest.raises(CheckpointError, match="unknown key 'colour'"):
        load(rewritten(file, config={**config, "colour": 1}))


def test_wrong_shape(file: Path) -> None:
    config = json.loads(header(file)["header"])["config"]
    config["backbone"]["hidden"] = 16
    with pytest.raises(CheckpointError, match="has shape"):
        load(rewritten(file, config=config))


def test_fingerprint_is_the_same_in_memory_and_in_files(potential: Potential, file: Path) -> None:
    assert fingerprint(potential) == fingerprint(file) == fingerprint(load(file))


def test_fingerprint_changes_with_content(potential: Potential, file: Path, tmp_path: Path) -> None:
    potential.metadata["name"] = "other"
    assert fingerprint(file) != fingerprint(save(potential, tmp_path / "b.safetensors"))
