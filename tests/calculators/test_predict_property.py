"""Properties through the pymatgen interface."""

from __future__ import annotations

from pathlib import Path

import pytest
from ase.build import bulk
from property_samples import GAP, METAL, small_model, small_potential
from pymatgen.core import Lattice, Molecule, Structure

from gfmpot import GFMPotential
from gfmpot.calculators.pymatgen import to_atoms
from gfmpot.graph import InvalidStructureError
from gfmpot.inference import PropertyPredictor
from gfmpot.models import CheckpointError, save


def salt() -> Structure:
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.3), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def water() -> Molecule:
    return Molecule(["O", "H", "H"], [[0, 0, 0.12], [0, 0.76, -0.48], [0, -0.76, -0.48]])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return save(small_model(GAP), tmp_path / "gap.safetensors")


def test_one_and_many(file: Path) -> None:
    one = GFMPotential.predict_property(salt(), file)
    assert one["unit"] == "eV"
    many = GFMPotential.predict_property([salt(), water(), bulk("Cu")], str(file))
    assert many[0]["band_gap"] == pytest.approx(one["band_gap"], abs=1e-6)
    assert len({answer["band_gap"] for answer in many}) == 3
    assert GFMPotential.predict_property(bulk("Cu"), file)["band_gap"] == pytest.approx(many[2]["band_gap"], abs=1e-6)


def test_molecules_are_like_those_of_ase(file: Path) -> None:
    atoms = to_atoms(water())
    assert atoms.info.pop("spin") == 1
    assert GFMPotential.predict_property(atoms, file) == GFMPotential.predict_property(water(), file)


def test_models_and_predictors_may_be_given() -> None:
    model = small_model(METAL)
    (answer,) = GFMPotential.predict_property([salt()], model, precision="fp64")
    predictor = PropertyPredictor(model, precision="fp64")
    assert GFMPotential.predict_property(salt(), predictor) == answer
    assert list(answer) == ["is_metal"]
    with pytest.raises(ValueError, match="a predictor has its own options, got precision"):
        GFMPotential.predict_property(salt(), predictor, precision="fp32")


def test_mistakes(file: Path, tmp_path: Path) -> None:
    alloy = Structure(Lattice.cubic(3.6), [{"Cu": 0.5, "Al": 0.5}], [[0, 0, 0]])
    with pytest.raises(InvalidStructureError, match="disordered"):
        GFMPotential.predict_property([salt(), alloy], file)
    with pytest.raises(CheckpointError, match="is a potential"):
        GFMPotential.predict_property(salt(), save(small_potential(), tmp_path / "p.safetensors"))
    with pytest.raises(CheckpointError, match=r"model of a property \(band_gap\)"):
        GFMPotential(file)
