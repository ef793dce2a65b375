"""Runs: values, each structure exactly once, relaxation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import read, write
from screening_samples import BAD, expected, halved, refused, table

from gfmpot.graph import BatchBudget, graph_from_atoms
from gfmpot.inference import Predictor
from gfmpot.inference.screening import Outcome, Relaxer, Screening, Settings, check
from gfmpot.inference.screening import running as module
from gfmpot.inference.screening.tables import read_summary
from gfmpot.models import Potential

pytest.importorskip("pyarrow", reason='needs pyarrow: pip install "gfmpot[parquet]"')


def test_values_are_the_predictors(screen, predictor: Predictor, tmp_path: Path, candidates: list[Atoms]) -> None:
    write(tmp_path / "a.extxyz", candidates)
    assert screen("a.extxyz", forces=True, stress=True)[1] == Outcome(done=1, blocks=1, stopped=False)
    found = table(tmp_path / "out")
    assert found["file"].tolist() == [str(tmp_path / "a.extxyz")] * len(candidates)
    assert found["index"].tolist() == list(range(len(candidates)))
    for (_, row), atoms in zip(found.iterrows(), read(tmp_path / "a.extxyz", ":"), strict=True):
        results = expected(predictor, atoms)
        assert row["formula"] == atoms.get_chemical_formula()
        assert row["natoms"] == len(atoms)
        assert row["energy"] == pytest.approx(results["energy"], abs=1e-9)
        assert row["energy_per_atom"] == pytest.approx(results["energy"] / len(atoms), abs=1e-9)
        assert row["max_force"] == pytest.approx(np.linalg.norm(results["forces"], axis=1).max(), abs=1e-9)
        assert row["energy_std"] == pytest.approx(results["energy_std"], abs=1e-9, nan_ok=True)
        assert row["novelty"] == pytest.approx(
            results["novelty"].max() if "novelty" in results else np.nan, nan_ok=True
        )
        assert row["branch_weights"] == pytest.approx(results["branch_weights"])
        np.testing.assert_allclose(np.stack(row["forces"]), results["forces"], atol=1e-9)
        if "stress" in results:
            np.testing.assert_allclose(row["stress"], results["stress"], atol=1e-9)
        else:
            assert row["stress"] is None


def test_novelty_tells_what_is_foreign(tmp_path: Path) -> None:
    crystal = bulk("MgO", "rocksalt", 4.21)
    squeezed = crystal.copy()
    squeezed.set_cell(0.6 * crystal.cell, scale_atoms=True)
    write(tmp_path / "a.extxyz", [crystal, squeezed])
    predictor = Predictor("default", device="cpu")
    with pytest.warns(UserWarning, match="far from all that .* learnt from"):
        Screening([tmp_path / "a.extxyz"], tmp_path / "out", predictor).work()
    graphs = [graph_from_atoms(atoms, cutoff=predictor.cutoff) for atoms in (crystal, squeezed)]
    largest = [float(predictor(graph)[0]["novelty"].max()) for graph in graphs]
    assert table(tmp_path / "out")["novelty"].tolist() == pytest.approx(largest)
    assert largest[0] < 1 < largest[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_each_structure_once(
    predictor, files: list[Atoms], tmp_path: Path, candidates: list[Atoms], workers: int
) -> None:
    write(tmp_path / "b.extxyz", candidates)
    paths, came = [tmp_path / "a.extxyz", tmp_path / "b.extxyz"], [0]

    def count(structures: int, atoms: int) -> None:
        came[0] += structures

    screening = Screening(paths, tmp_path / "out", predictor, Settings(block=7))
    assert screening.work(workers=workers, progress=count).complete
    assert came == [len(files) + 7], "nothing is done twice"
    assert check(tmp_path / "out") == []
    found, left = table(tmp_path / "out"), refused(tmp_path / "out")
    keys = sorted([*zip(found["file"], found["index"], strict=True), *((line["file"], line["index"]) for line in left)])
    assert keys == [(str(tmp_path / n), i) for n, c in (("a.extxyz", len(files)), ("b.extxyz", 7)) for i in range(c)]
    reasons = {line["reason"].split(" (")[0].split(" are ")[0].split(":")[0] for line in left}
    assert len(left) == len(files) - 35
    assert reasons == {
        "atoms 1",
        "no branch supports all of W",
        "charge must be a whole number, got np.float64(0.5)",
        "multiplicity 2 is impossible with 2 electrons",
    }


def test_batches_and_blocks_change_nothing(small_potential: Potential, files: list[Atoms], tmp_path: Path) -> None:
    tables = []
    for edges, block in ((100_000, 4096), (150, 4096), (300, 3)):
        predictor = Predictor(small_potential, precision="fp64", device="cpu", budget=BatchBudget(max_edges=edges))
        Screening([tmp_path / "a.extxyz"], tmp_path / f"{edges}", predictor, Settings(block=block)).work()
        tables.append(table(tmp_path / f"{edges}").drop(columns="branch_weights"))
    for other in tables[1:]:
        pd.testing.assert_frame_equal(tables[0], other, rtol=1e-9, atol=1e-9)


def test_a_structure_that_has_no_finite_answer_does_not_take_others_along(
    screen, predictor: Predictor, tmp_path: Path, candidates: list[Atoms], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model refuses a batch as a whole; and memory may suffice for less only."""
    write(tmp_path / "a.extxyz", candidates)
    calls: list[int] = []
    evaluate = Predictor._predict

    def fussy(self: Predictor, graph):
        calls.append(graph.n_structures)
        if graph.n_structures > 3:
            raise torch.OutOfMemoryError("out of memory")
        if (graph.atomic_numbers == 29).any():
            raise ValueError("energy or forces are not finite")
        return evaluate(self, graph)

    monkeypatch.setattr(Predictor, "_predict", fussy)
    screen("a.extxyz")
    assert refused(tmp_path / "out") == [
        {"file": str(tmp_path / "a.extxyz"), "index": 1, "formula": "Cu2", "reason": "energy or forces are not finite"}
    ]
    assert table(tmp_path / "out")["index"].tolist() == [0, 2, 3, 4, 5, 6]
    assert calls[0] == 7
    assert check(tmp_path / "out") == []


def test_what_was_too_much_once_is_not_tried_again(
    screen, small_potential: Potential, tmp_path: Path, candidates: list[Atoms], monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate, failed = Predictor._predict, []

    def cramped(self: Predictor, graph):
        if graph.n_structures > 2:
            failed.append(graph.n_structures)
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return evaluate(self, graph)

    write(tmp_path / "a.extxyz", 16 * candidates[:1])
    monkeypatch.setattr(Predictor, "_predict", cramped)
    predictor = Predictor(small_potential, device="cpu", budget=BatchBudget(max_structures=4))
    Screening([tmp_path / "a.extxyz"], tmp_path / "out", predictor).work()
    assert failed == [4], "once, not for each of four batches"
    assert len(table(tmp_path / "out")) == 16


def test_tiny_cells_are_refused_before_their_images_are_listed(screen, tmp_path: Path, monkeypatch) -> None:
    """A micrometre for an ångström: millions of images within the cutoff."""

    def search(*arguments: object, **options: object) -> None:
        pytest.fail("the neighbours were searched")

    thin = Atoms("Cu", cell=[9, 9, 0.05], pbc=(False, False, True))
    full = Atoms(8 * "H", np.random.default_rng(0).random((8, 3)) / 8, cell=[0.12, 0.12, 0.12], pbc=True)
    write(tmp_path / "a.extxyz", [bulk("Cu", "fcc", 3.6e-4), thin, full])
    monkeypatch.setattr("gfmpot.inference.screening.preparing.search", search)
    screen("a.extxyz")
    reasons = [line["reason"] for line in refused(tmp_path / "out")]
    assert len(reasons) == 3
    assert all("atoms closer than 0.1 Å are taken for a mistake" in reason for reason in reasons)


def test_other_errors_of_the_model_are_raised(screen, tmp_path: Path, candidates, monkeypatch) -> None:
    def broken(self: Predictor, graph) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    write(tmp_path / "a.extxyz", candidates)
    monkeypatch.setattr(Predictor, "__call__", broken)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        screen("a.extxyz")


def test_charges_reach_the_model(screen, small_potential: Potential, tmp_path: Path) -> None:
    write(tmp_path / "a.extxyz", [molecule("H2O"), molecule("NH3")])
    screen("a.extxyz", charge=-1, spin=2, out="ion")
    screen("a.extxyz", out="neutral")
    ion, neutral = (table(tmp_path / name)["energy"] for name in ("ion", "neutral"))
    assert (ion - neutral).abs().min() > 1e-6


def test_where_writes_what_fulfils_it_and_counts_the_rest(screen, files: list[Atoms], tmp_path: Path) -> None:
    screen("a.extxyz", out="all")
    screen("a.extxyz", out="some", where="natoms > 3 and energy_per_atom < -3", block=9)
    everything = table(tmp_path / "all")
    chosen = everything[(everything["natoms"] > 3) & (everything["energy_per_atom"] < -3)].reset_index(drop=True)
    assert 0 < len(chosen) < len(everything)
    found = table(tmp_path / "some")
    pd.testing.assert_frame_equal(found.drop(columns="branch_weights"), chosen.drop(columns="branch_weights"))
    summaries = [read_summary(path) for path in sorted((tmp_path / "some/results.parquet").iterdir())]
    assert sum(summary["not_selected"] for summary in summaries) == len(everything) - len(chosen)
    assert check(tmp_path / "some") == []


def test_nothing_selected_and_nothing_good_still_are_blocks(screen, tmp_path: Path, candidates: list[Atoms]) -> None:
    write(tmp_path / "a.extxyz", candidates)
    write(tmp_path / "b.extxyz", BAD)
    screen("a.extxyz", "b.extxyz", where="natoms > 1000", forces=True, stress=True, block=7)
    assert len(table(tmp_path / "out")) == 0
    assert len(refused(tmp_path / "out")) == len(BAD)
    assert check(tmp_path / "out") == []


def test_a_branch_that_does_not_answer_supports_nothing(small_potential: Potential) -> None:
    both = Predictor(small_potential, device="cpu")
    assert [29 in elements for elements in module.answering(both)] == [True, False]
    head = Predictor(small_potential, device="cpu", head="molecules-pbe0")
    assert [29 in elements for elements in module.answering(head)] == [False]
    weights = Predictor(small_potential, device="cpu", weights={"molecules-pbe0": 1.0})
    assert [29 in elements for elements in module.answering(weights)] == [False]


def test_large_structures_go_alone(screen, tmp_path: Path) -> None:
    big = bulk("MgO", "rocksalt", 4.2, cubic=True) * (3, 3, 3)
    write(tmp_path / "a.extxyz", [bulk("MgO", "rocksalt", 4.2), big, bulk("MgO", "rocksalt", 4.21)])
    screen("a.extxyz")
    per_atom = table(tmp_path / "out")["energy_per_atom"]
    assert per_atom[1] == pytest.approx(per_atom[0], abs=1e-9)


# --- relaxation


def test_relaxed_structures_are_evaluated_and_written(screen, predictor: Predictor, tmp_path: Path, candidates) -> None:
    write(tmp_path / "a.extxyz", candidates)
    screen("a.extxyz", relaxer=Relaxer(halved, {"by": "1 %"}), forces=True)
    found = table(tmp_path / "out")
    assert found["index"].tolist() == [0, 3, 4, 5, 6]
    assert found["steps"].tolist() == [0, 3, 4, 5, 6]
    assert found["converged"].tolist() == [True, False, True, False, True]
    reasons = [line["reason"] for line in refused(tmp_path / "out")]
    assert reasons[0] == "copper melts"
    assert "closer than 0.1 Å" in reasons[1]
    finals = read(tmp_path / "out/relaxed/block-0000000.extxyz", ":")
    assert [atoms.info["index"] for atoms in finals] == [0, 3, 4, 5, 6]
    for (_, row), atoms in zip(found.iterrows(), finals, strict=True):
        np.testing.assert_allclose(atoms.positions, 1.01 * candidates[row["index"]].positions, atol=1e-7)
        assert row["energy"] == pytest.approx(expected(predictor, atoms)["energy"], abs=1e-6)
    assert finals[3].info["charge"] == 1
    assert finals[3].info["spin"] == 2
    assert check(tmp_path / "out") == []


def test_a_relaxer_that_forgets_some_is_noticed(screen, tmp_path: Path, candidates: list[Atoms]) -> None:
    write(tmp_path / "a.extxyz", candidates)
    with pytest.raises(ValueError, match="the relaxer returned 6 for 7 structures"):
        screen("a.extxyz", relaxer=Relaxer(lambda structures: halved(structures[1:]), {}))
    assert list(tmp_path.glob("out/results.parquet/*")) == []
