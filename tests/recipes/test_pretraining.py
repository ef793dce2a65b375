"""Recipes of pretraining: what they declare fits together, and a small one runs from files to a card."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import ModuleType

import pytest
from ase.build import bulk, molecule
from packed import rattled, write_packed

from gfmpot import GFMCalculator
from gfmpot.config import from_yaml
from gfmpot.data import FrameSet
from gfmpot.models import PotentialConfig, fingerprint, load, save
from gfmpot.models.presets import TABLE_II, preset
from gfmpot.recipes import _pretraining, pretrain_default, pretrain_lead
from gfmpot.recipes._pretraining import Store
from gfmpot.training.config import TrainConfig

RECIPES = Path(_pretraining.__file__).parent

CONFIG = """
model:
  backbone: {name: painn, cutoff: 4.0, hidden: 16, layers: 2, radial_basis: 4}
  head: {readout: atomwise, shared_layers: 0, branch_layers: 1, branch_width: 8}
branches:
  - {files: [metals.bp], share: 0.5}
  - {files: [organics.bp], share: 0.5}
steps: 20
batch: {structures: 8}
sampling: {balance: shares}
gradients: differences
reading: {threads: 1, kept_graphs: 50}
optim: {warmup_steps: 5}
branch_weights: {structures: 30, epochs: 5}
"""


@pytest.mark.parametrize(
    ("recipe", "settings"),
    [
        (pretrain_default, ["pretrain_default", "pretrain_default_on", "pretrain_large", "pretrain_large_on"]),
        (pretrain_lead, ["pretrain_lead"]),
    ],
)
def test_stores_are_those_of_the_settings(recipe: ModuleType, settings: list[str]) -> None:
    named: set[str] = set()
    for name in settings:
        run = from_yaml(TrainConfig, RECIPES / f"{name}.yaml")
        PotentialConfig.from_mapping(run.model)
        named |= {file for branch in run.branches for file in branch.files}
    assert named == {f"{store.name}.bp" for store in recipe.STORES}


def test_lead_is_the_papers() -> None:
    run = from_yaml(TrainConfig, RECIPES / "pretrain_lead.yaml")
    model, lead = PotentialConfig.from_mapping(run.model), preset("lead")
    assert (model.backbone, model.head, model.max_neighbours) == (lead.backbone, lead.head, lead.max_neighbours)
    assert len(run.branches) == len(TABLE_II)
    assert (run.batch.structures, run.loss.weights, run.precision, run.epochs) == (25, (1.0, 94.8, 0.0), "fp64", 100)


@pytest.fixture
def stores(tmp_path: Path) -> tuple[Store, ...]:
    metals = [rattled(bulk(("Cu", "Al")[i % 2], cubic=True), i) for i in range(120)]
    organics = [rattled(molecule(("CH4", "C2H6", "CH3OH")[i % 3]), i) for i in range(120)]
    for name, frames in (("metals", metals), ("organics", organics)):
        write_packed(tmp_path / f"{name}.npz", FrameSet.from_atoms(frames))
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    return tuple(
        Store(name, (f"{name}.npz",), about={"branch": f"{name}-emt", "theory": "EMT"}, split=(0.1, 0.1))
        for name in ("metals", "organics")
    )


def run(tmp_path: Path, stores: tuple[Store, ...], monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    arguments = ["--data", str(tmp_path), "--folder", str(tmp_path / "run"), "--device", "cpu", *options]
    monkeypatch.setattr(sys, "argv", ["tiny.py", *arguments])
    _pretraining.run(str(tmp_path / "tiny.py"), "tiny", stores, "A small model.", "What it does.")


def test_from_files_to_a_card(
    tmp_path: Path, stores: tuple[Store, ...], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 1)  # no workers for so little
    run(tmp_path, stores, monkeypatch)
    card = (tmp_path / "run" / "tiny.md").read_text()
    for text in ("A small model.", "| metals-emt | EMT | 2 |", "## Estimated errors", "- gradients: differences"):
        assert text in card
    atoms = bulk("Cu", cubic=True)
    atoms.calc = GFMCalculator(tmp_path / "run" / "tiny.safetensors")
    atoms.get_potential_energy()
    assert atoms.calc.results["energy_std"] > 0
    with caplog.at_level(logging.INFO):
        run(tmp_path, stores, monkeypatch)  # the same command: nothing is converted or trained again
    assert "the run is complete" in caplog.text
    assert "converting" not in caplog.text


def test_cards_say_what_training_began_with(
    tmp_path: Path, stores: tuple[Store, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    run(tmp_path, stores, monkeypatch)
    first = tmp_path / "run" / "tiny.safetensors"
    model = load(first)
    model.metadata["training"] |= {"hours": 1.25, "begin_with": {"name": "older", "sha256": "0", "hours": 0.5}}
    (tmp_path / "on.yaml").write_text(f"begin_with: {save(model, first)}\n{CONFIG}")
    run(tmp_path, stores, monkeypatch, "--config", str(tmp_path / "on.yaml"), "--folder", str(tmp_path / "on"))
    said = f"- begin_with: {{'name': 'tiny', 'sha256': '{fingerprint(first)}', 'hours': 1.75}}"
    assert said in (tmp_path / "on" / "tiny.md").read_text()


def test_missing_data(tmp_path: Path, stores: tuple[Store, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "metals.npz").unlink()
    (tmp_path / "organics.npz").unlink()
    with pytest.raises(SystemExit, match=r"metals: no .*metals\.npz\norganics: no .*organics\.npz"):
        run(tmp_path, stores, monkeypatch)
    with pytest.raises(SystemExit, match=r"no .*qm7x; QM7-X is at https://zenodo\.org"):
        run(tmp_path, pretrain_lead.STORES, monkeypatch, "--config", str(RECIPES / "pretrain_lead.yaml"))
