"""From structures to properties: batches, precisions, errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from property_samples import GAP, METAL, ZPVE, small_model, small_potential, structures

from gfmpot.graph import AtomGraph, BatchBudget, InvalidStructureError, graph_from_atoms
from gfmpot.inference import PropertyPredictor
from gfmpot.models import CheckpointError, PropertyModel, UnsupportedElementsError, save


def test_answers_have_names_and_units() -> None:
    (gap,) = PropertyPredictor(small_model(GAP)).evaluate_many([bulk("Cu")])
    (metal,) = PropertyPredictor(small_model(METAL)).evaluate_many([bulk("Cu")])
    assert list(gap) == ["band_gap", "unit"]
    assert gap["unit"] == "eV"
    assert isinstance(gap["band_gap"], float)
    assert list(metal) == ["is_metal"]
    assert 0 < metal["is_metal"] < 1  # type: ignore[operator]


def test_batches_change_nothing() -> None:
    whole = PropertyPredictor(small_model(ZPVE), precision="fp64")
    small = PropertyPredictor(small_model(ZPVE), precision="fp64", budget=BatchBudget(max_structures=2))
    found = [answer["zpve"] for answer in whole.evaluate_many(structures())]
    assert len(set(found)) == len(found)
    assert [answer["zpve"] for answer in small.evaluate_many(structures())] == pytest.approx(found, abs=1e-10)
    one_by_one = [whole.evaluate_many([atoms])[0]["zpve"] for atoms in structures()]
    assert one_by_one == pytest.approx(found, abs=1e-10)
    assert whole.evaluate_many([]) == []


def test_precisions_and_kernels_agree() -> None:
    model = small_model(GAP)
    exact = values(PropertyPredictor(model, precision="fp64", kernels=False))
    np.testing.assert_allclose(values(PropertyPredictor(model, precision="fp64")), exact, rtol=1e-10)
    np.testing.assert_allclose(values(PropertyPredictor(model)), exact, atol=1e-5)
    for kernels in (True, False):
        rounded = values(PropertyPredictor(model, precision="bf16", kernels=kernels))
        np.testing.assert_allclose(rounded, exact, atol=0.1)
        assert not np.array_equal(rounded, values(PropertyPredictor(model, kernels=kernels)))
    assert model.dtype == torch.float32  # a copy was made ready


def values(predictor: PropertyPredictor) -> np.ndarray:
    return np.array([answer["band_gap"] for answer in predictor.evaluate_many(structures())])


def test_charge_and_spin() -> None:
    model, ammonia = small_model(GAP), molecule("NH3")
    stated = ammonia.copy()
    stated.info |= {"charge": 1, "spin": 2}
    ion = PropertyPredictor(model, charge=1, spin=2).evaluate_many([ammonia, stated])
    assert ion[0] == ion[1]
    assert PropertyPredictor(model).evaluate_many([stated])[0] == ion[0]
    assert PropertyPredictor(model).evaluate_many([ammonia])[0] != ion[0]


def test_who_cannot_be_answered_for_is_named() -> None:
    predictor = PropertyPredictor(small_model(GAP))
    with pytest.raises(UnsupportedElementsError, match=r"structure 1 \(Fe\): .*not trained on Fe"):
        predictor.evaluate_many([bulk("Cu"), bulk("Fe")])
    broken = bulk("Cu") * (2, 1, 1)
    broken.positions[1] = np.nan
    with pytest.raises(InvalidStructureError, match=r"structure 0 \(Cu2\): atom 1 has a position that is not finite"):
        predictor.evaluate_many([broken])
    guessing = PropertyPredictor(small_model(GAP), allow_unsupported=True)
    assert np.isfinite(guessing.evaluate_many([bulk("Fe")])[0]["band_gap"])


def test_answers_that_are_not_finite_are_refused() -> None:
    model = small_model(GAP)
    with torch.no_grad():
        model.head.network[-1].bias.fill_(torch.inf)
    with pytest.raises(InvalidStructureError, match="band_gap is not finite"):
        PropertyPredictor(model).evaluate_many([bulk("Cu")])


def test_batches_that_do_not_fit_are_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = PropertyModel.forward

    def call(self: PropertyModel, graph: AtomGraph, **options: Any) -> Any:
        if graph.n_atoms > 9:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, graph, **options)

    predictor = PropertyPredictor(small_model(GAP))
    want = predictor.evaluate_many(structures())
    monkeypatch.setattr(PropertyModel, "forward", call)
    assert [a["band_gap"] for a in predictor.evaluate_many(structures())] == pytest.approx(
        [a["band_gap"] for a in want], abs=1e-6
    )
    assert predictor.budget.max_edges < BatchBudget().max_edges
    with pytest.raises(MemoryError, match=r"16 atoms and .* edges do not fit"):
        predictor(graph_from_atoms(bulk("Cu") * (4, 2, 2), cutoff=4.0))


def test_other_files_and_settings(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is a potential"):
        PropertyPredictor(save(small_potential(), tmp_path / "p.safetensors"))
    with pytest.raises(CheckpointError, match="no model or file"):
        PropertyPredictor(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="did you mean 'fp32'"):
        PropertyPredictor(small_model(), precision="fp23")
