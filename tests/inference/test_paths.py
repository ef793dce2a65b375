"""The ways to evaluate a network agree, follow each other when they should, and give way when they fail."""

from __future__ import annotations

import copy
import dataclasses
import logging
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from gfmpot import kernels
from gfmpot.graph import AtomGraph, InvalidStructureError, graph_from_atoms
from gfmpot.inference import Predictor
from gfmpot.inference import paths as ways
from gfmpot.inference.compiled import artifact_path
from gfmpot.models import BranchInfo, HeadConfig, Potential, PotentialConfig, UnsupportedElementsError
from gfmpot.models.backbones.painn import PaiNNConfig
from gfmpot.models.prediction import Prediction

ELEMENTS = dict.fromkeys(("H", "C", "O", "Na", "Cl"), -1.0)

FAST = "kernels" if kernels.available() else "plain"

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore::FutureWarning")


def tiny(readout: str = "atomwise", seed: int = 0) -> Potential:
    torch.manual_seed(seed)
    config = PotentialConfig(
        PaiNNConfig(cutoff=4.0, hidden=8, layers=1, radial_basis=3),
        HeadConfig(shared_layers=0, branch_width=8, readout=readout),  # type: ignore[arg-type]
        error_hidden=4,
    )
    model = Potential(config, [BranchInfo(name, "PBE", e0=ELEMENTS) for name in ("a-pbe", "b-pbe", "c-pbe")])
    assert model.errors is not None
    model.errors.known.fill_(1.0)
    model.errors.reach.fill_(100.0)
    return model


def graphs() -> list[AtomGraph]:
    salt, acid = bulk("NaCl", "rocksalt", 5.6, cubic=True), molecule("CH3COOH")
    salt.rattle(0.1, seed=0)
    return [graph_from_atoms(atoms, cutoff=4.0) for atoms in (salt, acid, molecule("H2O"), bulk("Na", cubic=True))]


def same(a: Predictor, b: Predictor, graph: AtomGraph, tolerance: float) -> None:
    for one, two in zip(a(graph), b(graph), strict=True):
        assert one["energy"] == pytest.approx(two["energy"], rel=tolerance, abs=tolerance)
        np.testing.assert_allclose(one["forces"], two["forces"], atol=tolerance)
        assert one["energy_std"] == pytest.approx(two["energy_std"], rel=100 * tolerance)
        np.testing.assert_allclose(one["novelty"], two["novelty"], rtol=100 * tolerance)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GFMPOT_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("no C++ compiler found\nand more lines")

    monkeypatch.setattr("gfmpot.inference.compiled.compile_network", fail)


def test_an_answer_that_is_not_finite_is_refused_with_its_place_among_several(monkeypatch: pytest.MonkeyPatch) -> None:
    (salt, acid, *_), predict = graphs(), Predictor._predict

    def without_salt(self: Predictor, graph: AtomGraph) -> Prediction:
        prediction = predict(self, graph)
        salty = torch.tensor([11 in z for z in graph.atomic_numbers.split(graph.atoms_per_structure.tolist())])
        return dataclasses.replace(prediction, energy=prediction.energy.masked_fill(salty, torch.nan))

    monkeypatch.setattr(Predictor, "_predict", without_salt)
    predictor = Predictor(tiny())
    with pytest.raises(InvalidStructureError, match=r"^structure 1 of the batch: energy or forces are not finite"):
        predictor(AtomGraph.batch([acid, salt]))
    with pytest.raises(InvalidStructureError, match=r"^energy or forces are not finite"):
        predictor(salt)


@pytest.mark.parametrize("readout", ["atomwise", "graph"])
def test_kernels_equal_operations(readout: str) -> None:
    fast, plain = (Predictor(tiny(readout), precision="fp64", kernels=kernels) for kernels in (True, False))
    assert (fast.path, plain.path) == (FAST, "plain")
    same(fast, plain, AtomGraph.batch(graphs()), 1e-12)


@pytest.mark.parametrize("readout", ["atomwise", "graph"])
def test_compiled_once_for_all_sizes(readout: str, caplog: pytest.LogCaptureFixture) -> None:
    """One compilation serves a single structure and a batch, in this process and from the disk in the next."""
    caplog.set_level(logging.INFO, logger="gfmpot.inference.paths")
    compiled = Predictor(tiny(readout), precision="fp64", compile=True)
    plain = Predictor(tiny(readout), precision="fp64", kernels=False, compile=False)
    for graph in (graphs()[0], AtomGraph.batch(graphs()), graphs()[2], AtomGraph.batch(graphs() * 3)):
        same(compiled, plain, graph, 1e-12)
        assert compiled.path == "compiled"
    assert caplog.text.count("compiled path from now on") == 1
    path = artifact_path(compiled.potential, "fp64")
    written = path.stat().st_mtime_ns
    other = tiny(readout, seed=1)  # the same shape with other weights
    again = Predictor(other, precision="fp64", kernels=False)  # auto: from the first evaluation, since it is there
    same(again, Predictor(other, precision="fp64", kernels=False, compile=False), AtomGraph.batch(graphs()), 1e-12)
    assert again.path == "compiled"
    assert path.stat().st_mtime_ns == written


def test_broken_artifact_is_made_anew(caplog: pytest.LogCaptureFixture) -> None:
    potential = tiny()
    path = artifact_path(potential.double(), "fp64")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"cut off")
    predictor = Predictor(potential, precision="fp64", compile=True)
    predictor(graphs()[0])
    assert predictor.path == "compiled"
    assert "cannot be used" in caplog.text
    assert path.stat().st_size > 1000


def test_too_small_for_compiled_code() -> None:
    """A lone atom has no edges: sizes that a compiler would take for constants go another way."""
    compiled = Predictor(tiny(), precision="fp64", compile=True)
    alone = graph_from_atoms(Atoms("Na"), cutoff=4.0)
    compiled(alone)
    assert compiled.path == FAST
    compiled(graphs()[0])
    assert compiled.path == "compiled"
    same(compiled, Predictor(tiny(), precision="fp64"), alone, 1e-12)


@pytest.mark.usefixtures("no_compiler")
def test_failing_compiler() -> None:
    predictor = Predictor(tiny(), compile=True)
    with pytest.warns(
        RuntimeWarning, match="compiled evaluation is not used: RuntimeError: no C\\+\\+ compiler found$"
    ):
        predictor(graphs()[0])
    predictor(graphs()[0])  # said once
    assert predictor.path == FAST


@pytest.mark.usefixtures("no_compiler")
def test_a_structure_without_an_answer_does_not_end_compilation() -> None:
    predictor = Predictor(tiny(), compile=True)
    foreign = graph_from_atoms(bulk("Po", "sc", 3.35, cubic=True), cutoff=4.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UnsupportedElementsError):
            predictor(foreign)
    with pytest.warns(RuntimeWarning, match="compiled evaluation is not used: RuntimeError: no C"):
        predictor(graphs()[0])


def test_wrong_compiled_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*arguments: object) -> object:
        return lambda initial, vectors, graph, weights: (initial, initial[:, :3].double(), vectors)

    monkeypatch.setattr("gfmpot.inference.compiled.compile_network", wrong)
    predictor = Predictor(tiny(), compile=True)
    with pytest.warns(RuntimeWarning, match="differs by"):
        predictor(graphs()[0])
    same(predictor, Predictor(tiny()), graphs()[0], 1e-12)


@pytest.mark.usefixtures("no_compiler")
def test_auto_compiles_at_a_fixed_evaluation_and_only_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "COMPILE_AT", 4)
    fast, plain = Predictor(tiny()), Predictor(tiny(), kernels=False)
    for _ in range(6):
        fast(graphs()[0])
    for _ in range(3):
        plain(graphs()[0])
    with pytest.warns(RuntimeWarning, match="not used"):
        plain(graphs()[0])
    plain(graphs()[0])


@pytest.mark.usefixtures("no_compiler")
def test_never() -> None:
    predictor = Predictor(tiny(), compile=False, kernels=False)
    for _ in range(3):
        predictor(graphs()[0])
    assert predictor.path == "plain"
    with pytest.raises(ValueError, match="compile must be 'auto', True or False, got 'yes'"):
        Predictor(tiny(), compile="yes")  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match="compile=True has no effect"):
        Predictor(tiny(), compile=True, skip=0.1)


def test_copies_travel_without_compiled_code() -> None:
    predictor = Predictor(tiny(), precision="fp64")
    for twin in (copy.deepcopy(predictor), pickle.loads(pickle.dumps(predictor))):
        assert twin.path == predictor.path
        same(twin, predictor, graphs()[0], 0.0)


def test_what_is_kept_between_evaluations_is_of_the_same_atoms_and_options() -> None:
    predictor, graph = Predictor(tiny(), precision="fp64"), graphs()[0]
    blend = predictor(graph)[0]["energy"]
    predictor.head = "b-pbe"
    assert (
        predictor(graph)[0]["energy"] == Predictor(tiny(), precision="fp64", head="b-pbe")(graph)[0]["energy"] != blend
    )
    predictor.head = None
    graph.atomic_numbers[0] = 17 + 11 - int(graph.atomic_numbers[0])  # in place, as Monte Carlo does
    assert predictor(graph)[0]["energy"] == Predictor(tiny(), precision="fp64")(graph)[0]["energy"] != blend
    assert pickle.loads(pickle.dumps(predictor))._last is None


def test_spread_of_forces_by_kernels() -> None:
    """One backward pass per branch through the same evaluation."""
    fast, plain = (
        Predictor(tiny(), precision="fp64", uncertainty="forces", kernels=kernels) for kernels in (True, False)
    )
    for one, two in zip(fast(AtomGraph.batch(graphs())), plain(AtomGraph.batch(graphs())), strict=True):
        np.testing.assert_allclose(one["forces_std"], two["forces_std"], atol=1e-12)


def test_skip_leaves_branches_out_structure_by_structure() -> None:
    potential = tiny()
    weights = {"a-pbe": 0.7, "b-pbe": 0.25, "c-pbe": 0.05}
    full, skipping = (Predictor(potential, precision="fp64", weights=weights, skip=skip) for skip in (0.0, 0.1))
    kept = Predictor(potential, precision="fp64", weights={"a-pbe": 0.7, "b-pbe": 0.25})
    batch = AtomGraph.batch(graphs())
    same(skipping, kept, batch, 1e-12)
    for one, two, alone in zip(skipping(batch), full(batch), graphs(), strict=True):
        assert set(one["branch_energies"]) == {"a-pbe", "b-pbe"}
        energies = two["branch_energies"]  # all on one scale: alignments are zero here
        distance = abs(energies["c-pbe"] - one["energy"])
        assert abs(one["energy"] - two["energy"]) <= 0.05 * distance + 1e-12
        assert skipping(alone)[0]["energy"] == pytest.approx(one["energy"], abs=1e-12)


def test_skip_by_composition_and_never_all() -> None:
    """The weights of the blend differ by structure, and so does what is skipped."""
    predictor = Predictor(tiny(), precision="fp64", skip=0.99)
    for single in predictor(AtomGraph.batch(graphs())):
        assert sorted(single["branch_weights"].values()) == [0.0, 0.0, 1.0]
    with pytest.raises(ValueError, match="skip must be a weight from 0 to below 1, got 1"):
        Predictor(tiny(), skip=1)


def test_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that does not fit is split; one structure that does not is an error, not a wrong result."""
    predictor, expected = Predictor(tiny(), precision="fp64"), Predictor(tiny(), precision="fp64")
    evaluate = Predictor._predict
    largest = max(graph.n_edges for graph in graphs())

    def limited(self: Predictor, graph: AtomGraph) -> object:
        if self is predictor and graph.n_edges > largest:
            raise torch.OutOfMemoryError("HIP out of memory")
        return evaluate(self, graph)

    monkeypatch.setattr(Predictor, "_predict", limited)
    found = list(predictor.many(graphs() * 2))
    for one, two in zip(found, expected.many(graphs() * 2), strict=True):
        assert one["energy"] == pytest.approx(two["energy"], abs=1e-12)
    assert predictor.budget.max_edges < expected.budget.max_edges
    largest = 1
    with pytest.raises(MemoryError, match="8 atoms and 108 edges do not fit"):
        list(predictor.many(graphs()[:1]))


def test_export_runs_without_gfmpot(tmp_path: Path) -> None:
    from gfmpot.inference.export import INPUTS, export

    potential = tiny()
    path = export(potential, tmp_path / "tiny.pt2", precision="fp64")
    squeezed = bulk("NaCl", "rocksalt", 4.2, cubic=True)  # nuclei repel each other
    graph = graph_from_atoms(squeezed, cutoff=4.0)
    inputs = (graph.atomic_numbers, graph.positions, graph.cell[0], graph.edge_index, graph.cell_shifts)
    torch.save([*(t.contiguous() for t in inputs), graph.charge, graph.spin], tmp_path / "in.pt")
    script = (
        "import sys, json, torch\n"
        "sys.modules['gfmpot'] = None\n"
        "model = torch._inductor.aoti_load_package(sys.argv[1])\n"
        "assert list(json.loads(model.get_metadata()['inputs'])) == json.loads(sys.argv[4])\n"
        "torch.save(model(*torch.load(sys.argv[2])), sys.argv[3])\n"
    )
    import json

    arguments = [str(path), str(tmp_path / "in.pt"), str(tmp_path / "out.pt"), json.dumps(list(INPUTS))]
    subprocess.run([sys.executable, "-W", "ignore", "-c", script, *arguments], check=True)
    energy, forces, stress = torch.load(tmp_path / "out.pt")
    (expected,) = Predictor(potential, precision="fp64")(graph)
    assert float(energy) == pytest.approx(expected["energy"], rel=1e-12)
    np.testing.assert_allclose(forces, expected["forces"], atol=1e-11)
    np.testing.assert_allclose(stress[0], expected["stress"], atol=1e-13)


def test_export_refuses(tmp_path: Path) -> None:
    from gfmpot.inference.export import export

    with pytest.raises(ValueError, match=r"ends in \.pt2, got '\.pt'"):
        export(tiny(), tmp_path / "model.pt")
    with pytest.raises(ValueError, match="no head 'a-pbr'; did you mean 'a-pbe'"):
        export(tiny(), tmp_path / "model.pt2", head="a-pbr")
    assert list(tmp_path.iterdir()) == []


def test_warnings_of_compiled_code_are_ours() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        Predictor(tiny(), compile=True)(graphs()[0])
