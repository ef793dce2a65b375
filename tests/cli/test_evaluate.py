"""``gfmpot evaluate``: errors that are known beforehand, kinds of data, and what users get wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from typer.testing import Result

from gfmpot import GFMCalculator
from gfmpot.data import FrameSet, split_of_group
from gfmpot.inference import Predictor, comparison
from gfmpot.inference.comparison import Comparison, compare
from gfmpot.models import BranchInfo, Potential, PotentialConfig, load, save
from gfmpot.models.backbones.painn import PaiNNConfig
from gfmpot.training.corpus import graphs_of
from gfmpot.training.metrics import evaluate as training_metrics
from gfmpot.units import GPA

ENERGY, STRESS = 0.3, 0.002
"""eV and eV/Å³ that labels are above what the model says; forces are off by (0, 0, ±0.1) eV/Å."""

MOLECULES = ("CH4", "H2O", "NH3", "C2H6", "CH3OH", "HCN")
Call = Callable[..., Result]


def labelled(model: Path, structures: Sequence[Atoms], head: str | None = "solids-pbe") -> list[Atoms]:
    """The structures with labels that are known to be wrong by so much."""
    calculator = GFMCalculator(model, head=head, precision="fp64", device="cpu")
    frames = []
    for i, (atoms, found) in enumerate(zip(structures, calculator.evaluate_many(structures), strict=True)):
        shift = np.zeros((len(atoms), 3))
        shift[:, 2] = 0.1 * (-1) ** i
        labels = {"energy": found["energy"] + ENERGY * len(atoms), "forces": found["forces"] + shift}
        if "stress" in found:
            labels["stress"] = found["stress"] + STRESS
        frames.append(atoms.copy())
        frames[-1].calc = SinglePointCalculator(frames[-1], **labels)
    return frames


def rattled(names: Sequence[str] = MOLECULES, times: int = 2, seed: int = 0) -> list[Atoms]:
    structures = [molecule(name) for name in names for _ in range(times)]
    for i, atoms in enumerate(structures):
        atoms.rattle(0.05, seed=seed + i)
    return structures


def crystals() -> list[Atoms]:
    found = [bulk("MgO", "rocksalt", 4.2), bulk("NaCl", "rocksalt", 5.6), bulk("Cu", cubic=True)]
    for i, atoms in enumerate(found):
        atoms.rattle(0.05, seed=i)
    return found


def packed(path: Path, frames: Sequence[Atoms], groups: Sequence[str] | None = None) -> Path:
    data = FrameSet.from_atoms(frames)
    arrays = {name: getattr(data, name) for name in ("numbers", "positions", "energy", "forces", "cell", "pbc")}
    labels = np.array(groups or [str(i) for i in range(len(frames))])
    arrays |= {"stress": data.stress, "group": np.arange(len(frames)), "group_labels": labels}
    np.savez(path, natoms=data.atoms_per_structure, meta=json.dumps({"theory": "PBE"}), **arrays)
    return path


@pytest.fixture
def evaluate(call: Call, tiny_model: Path, tmp_path: Path):
    """Run the verb; what it wrote as JSON, by order of the data."""

    def run(*arguments: object, code: int = 0) -> tuple[list[dict], str]:
        options = ("--model", tiny_model, "--precision", "fp64", "--device", "cpu", "--json", "out.json")
        result = call("evaluate", *options, *arguments, code=code)
        file = tmp_path / "out.json"
        return json.loads(file.read_text())["data"] if file.exists() else [], " ".join(result.output.split())

    return run


def test_errors_are_those_that_were_put_in(evaluate, tiny_model: Path) -> None:
    write("a.extxyz", labelled(tiny_model, [*rattled(), *crystals()]))
    (row,), said = evaluate("a.extxyz", "--head", "solids-pbe")
    assert (row["structures"], row["head"], row["split"]) == (15, "solids-pbe", "all")
    assert row["atoms"] == sum(len(atoms) for atoms in read("a.extxyz", ":"))
    for name in ("energy_mae", "energy_rmse"):
        assert row[name] == pytest.approx(ENERGY, abs=1e-6)
    for name in ("forces_mae", "forces_rmse"):
        assert row[name] == pytest.approx(0.1, abs=1e-6)
    assert row["forces_component_mae"] == pytest.approx(0.1 / 3, abs=1e-6)
    assert row["stress_mae"] == pytest.approx(STRESS, abs=1e-8)
    forces = np.concatenate([atoms.get_forces() for atoms in read("a.extxyz", ":")])
    sizes = np.linalg.norm(forces, axis=1)
    assert row["forces_relative"] == pytest.approx(0.1 / sizes.mean(), rel=1e-5)
    for text in ("300", "100", "33.3", f"{STRESS / GPA:.3g}", "meV/atom", "GPa"):
        assert text in said


def test_cosine_is_that_of_the_angle() -> None:
    composition = np.zeros((1, 118))
    composition[0, 0] = 3
    forces = np.array([[1.0, 0, 0], [0, 2.0, 0], [1e-3, 0, 0]])
    predicted = np.array([[1.0, 1.0, 0], [0, -4.0, 0], [0, 0, 5.0]])  # 45°, 180°, and a force without direction
    none = np.full((1, 6), np.nan)
    energy = np.array([np.nan]), np.array([1.0])
    found = Comparison(np.ones(3, int), composition, *energy, forces, predicted, none, none).metrics()
    assert found["forces_cosine"] == pytest.approx((0.5**0.5 - 1) / 2)
    assert not {"energy_mae", "stress_mae"} & set(found)


def test_the_worst_are_listed(evaluate, tiny_model: Path) -> None:
    structures = rattled(("CH4", "H2O"), times=2)
    frames = labelled(tiny_model, structures)
    forces = frames[2].calc.results["forces"]
    forces[0, 0] += 3.0  # oxygen's, in the first water
    write("a.extxyz", frames)
    rows, said = evaluate("a.extxyz", "--head", "solids-pbe", "--worst", 2)
    (row,) = rows
    total = 0.1 * (5 + 5 + 3 + 3) + np.hypot(3.0, 0.1) - 0.1
    first, second = row["worst_structures"]
    assert (first["structure"], first["formula"], first["atoms"]) == (2, "H2O", 3)
    assert first["share"] == pytest.approx((np.hypot(3.0, 0.1) + 0.2) / total, rel=1e-5)
    assert second["structure"] in (0, 1)
    assert second["share"] == pytest.approx(0.5 / total, rel=1e-5)
    size = np.linalg.norm(frames[second["structure"]].get_forces(), axis=1).sum()
    assert second["relative"] == pytest.approx(0.5 / size, rel=1e-5)
    assert [each["element"] for each in row["worst_elements"]] == ["O", "H"]
    assert row["worst_elements"][1]["atoms"] == 12
    assert row["worst_elements"][1]["share"] == pytest.approx(1.2 / total, rel=1e-5)
    assert "the largest shares of the error of forces" in said
    assert f"{100 * first['share']:.3g}" in said
    plain, said = evaluate("a.extxyz", "--head", "solids-pbe")
    assert "worst_structures" not in plain[0]
    assert "largest shares" not in said


def test_the_worst_without_forces_have_no_relative_error(evaluate, tiny_model: Path) -> None:
    (atoms,) = labelled(tiny_model, rattled(("CH4",), times=1))
    atoms.calc.results["forces"][:] = 0.0
    write("a.extxyz", [atoms])
    (row,), said = evaluate("a.extxyz", "--head", "solids-pbe", "--worst", 1)
    assert row["worst_structures"][0]["relative"] is None
    assert "–" in said


def test_worst_of_blocks_with_structures_left_out(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "BLOCK", 2)
    data = FrameSet.from_atoms(labelled(tiny_model, rattled(("CH4", "H2O", "NH3"), times=2)))
    data = replace(data, energy=np.where(np.arange(6) == 1, np.nan, data.energy))
    data.forces[data.offsets[1] : data.offsets[2]] = np.nan
    outcome = compare(Predictor(load(tiny_model), head="solids-pbe", precision="fp64"), data, np.array([5, 1, 3, 0]))
    assert outcome.compared == [5, 3, 0]
    assert outcome.comparison is not None
    shares = outcome.comparison.shares()
    np.testing.assert_allclose(shares.structure_error, [0.4, 0.3, 0.5], rtol=1e-4)
    assert shares.element_error.sum() == pytest.approx(1.2, rel=1e-4)


def test_numbers_are_those_of_training(tiny_model: Path) -> None:
    potential = load(tiny_model).double()
    frames = FrameSet.from_atoms(labelled(tiny_model, [*rattled(), *crystals()]))
    frames = replace(frames, energy=np.where(np.arange(len(frames)) < 4, np.nan, frames.energy))
    chosen = np.arange(len(frames))
    expected = training_metrics(potential, graphs_of(frames, chosen, potential.config, 0))["solids-pbe"]
    predictor = Predictor(potential, head="solids-pbe", precision="fp64")
    outcome = compare(predictor, frames, chosen)
    assert outcome.comparison is not None
    found = outcome.comparison.metrics()
    for name in ("energy_mae", "forces_mae", "forces_relative", "stress_mae", "structures"):
        assert found[name] == pytest.approx(expected[name], rel=1e-9)


def test_blocks_do_not_change_numbers(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = FrameSet.from_atoms(labelled(tiny_model, rattled()))
    predictor, chosen = Predictor(tiny_model, head="solids-pbe", precision="fp64"), np.array([7, 2, 3, 11, 0])
    whole, watched = compare(predictor, frames, chosen).comparison, []
    monkeypatch.setattr(comparison, "BLOCK", 2)
    parts = compare(predictor, frames, chosen, lambda *done: watched.append(done)).comparison
    assert whole is not None
    assert parts is not None
    for name, values in vars(whole).items():
        np.testing.assert_allclose(getattr(parts, name), values, atol=1e-9)
    assert [structures for structures, _ in watched] == [2, 2, 1]
    assert sum(atoms for _, atoms in watched) == len(whole.forces)


def test_blend_is_compared_up_to_energies_of_elements(evaluate, tiny_model: Path) -> None:
    frames = labelled(tiny_model, rattled(), head=None)
    for atoms in frames:
        atoms.calc.results["energy"] += 100.0 * atoms.numbers.sum()
    write("a.extxyz", frames)
    (row,), said = evaluate("a.extxyz", "--head", "blend")
    assert row["energy_mae"] == pytest.approx(0.0, abs=1e-5)
    assert row["forces_mae"] == pytest.approx(0.1, abs=1e-6)
    assert "energies up to an energy per element, 4 of which were fitted" in said
    write("b.extxyz", frames[:3])
    (row,), said = evaluate("b.extxyz", "--head", "blend")
    assert "energy_mae" not in row
    assert "no more structures than elements" in said


def test_another_scale_is_told(evaluate, tiny_model: Path) -> None:
    frames = labelled(tiny_model, rattled())
    for atoms in frames:
        atoms.calc.results["energy"] += 100.0 * atoms.numbers.sum()
    write("a.extxyz", frames)
    (row,), said = evaluate("a.extxyz", "--head", "solids-pbe")
    assert row["energy_mae"] > 100
    assert row["energy_mae_shifted"] == pytest.approx(0.0, abs=1e-5)
    assert "on another scale than those of solids-pbe" in said


def test_packed_files_are_split_by_group(evaluate, tiny_model: Path) -> None:
    frames = labelled(tiny_model, rattled(("H2O",), times=80))
    groups = [f"molecule {i}" for i in range(80)]
    packed(Path("a.npz"), frames, groups)
    test = [group for group in groups if split_of_group(group) == "test"]
    assert 0 < len(test) < 20
    (row,), _ = evaluate("a.npz", "--head", "solids-pbe")
    assert (row["structures"], row["split"], row["theory"]) == (len(test), "test", "PBE")
    (row,), _ = evaluate("a.npz", "--head", "solids-pbe", "--split", "all")
    assert row["structures"] == 80
    (row,), _ = evaluate("a.npz", "--head", "solids-pbe", "--split", "train", "--limit", "7")
    assert row["structures"] == 7
    assert row["energy_mae"] == pytest.approx(ENERGY, abs=1e-5)


def test_stores_know_their_branch(evaluate, call: Call, tiny_model: Path) -> None:
    pytest.importorskip("adios2", reason="the adios2 wheel is not installed")
    write("a.extxyz", labelled(tiny_model, rattled(times=10)))
    for name, branch in (("a.bp", "solids-pbe"), ("b.bp", "others-scan")):
        about = ("--branch", branch, "--theory", "any", "--licence", "CC0", "--split", "0.5,0.2,0.3")
        call("data", "convert", "extxyz", "a.extxyz", name, *about)
    (row,), _ = evaluate("a.bp")
    assert (row["head"], row["split"], row["theory"]) == ("solids-pbe", "test", "any")
    assert 0 < row["structures"] < 60
    (row,), _ = evaluate("a.bp", "--split", "all")
    assert row["structures"] == 60
    assert row["forces_mae"] == pytest.approx(0.1, abs=1e-5)
    _, said = evaluate("a.bp", "b.bp", code=2)
    assert "is of the branch 'others-scan', which the model lacks: give --head NAME" in said
    assert "solids-pbe, molecules-pbe0, or --head blend" in said
    rows, _ = evaluate("a.bp", "b.bp", "--head", "solids-pbe")
    assert [row["head"] for row in rows] == ["solids-pbe"] * 2


def test_labels_that_are_partly_missing(evaluate, tiny_model: Path) -> None:
    frames = labelled(tiny_model, rattled())
    del frames[0].calc.results["forces"]
    del frames[1].calc.results["energy"]
    frames[2].calc = None
    write("a.extxyz", frames)
    (row,), said = evaluate("a.extxyz", "--head", "solids-pbe")
    assert (row["structures"], row["unlabelled"]) == (11, 1)
    assert row["energy_mae"] == pytest.approx(ENERGY, abs=1e-6)
    assert "stress_mae" not in row
    assert "stress" not in said
    assert "left out 1 structure without any label" in said


def test_forces_alone_suffice(evaluate, tiny_model: Path) -> None:
    frames = labelled(tiny_model, rattled())
    for atoms in frames:
        del atoms.calc.results["energy"]
    write("a.extxyz", frames)
    (row,), _ = evaluate("a.extxyz", "--head", "blend", "--plot", "plots")
    assert "energy_mae" not in row
    assert row["forces_mae"] > 0
    assert Path("plots/a.png").read_bytes().startswith(b"\x89PNG")


def test_elements_that_a_head_lacks_are_counted(evaluate, tiny_model: Path) -> None:
    write("a.extxyz", labelled(tiny_model, [*rattled(("H2O",)), *crystals()]))
    (row,), said = evaluate("a.extxyz", "--head", "molecules-pbe0")
    assert (row["structures"], row["unsupported"]) == (2, 3)
    assert row["lacking"] == {"Mg": 1, "Na": 1, "Cl": 1, "Cu": 1}
    assert "left out 3 structures with elements that molecules-pbe0 lacks: Mg, Na, Cl, Cu" in said
    write("b.extxyz", labelled(tiny_model, crystals()))
    (row,), said = evaluate("b.extxyz", "--head", "molecules-pbe0", code=1)
    assert row["structures"] == 0
    assert "b.extxyz: nothing is left to compare" in said


def test_what_cannot_be_evaluated_is_listed(evaluate, tiny_model: Path) -> None:
    frames = labelled(tiny_model, rattled())
    frames[3].positions[1] = frames[3].positions[0]
    frames[5].info["spin"] = 8
    write("a.extxyz", frames)
    (row,), said = evaluate("a.extxyz", "--head", "solids-pbe", code=1)
    assert (row["structures"], row["failed"]) == (10, 2)
    assert "a.extxyz frame 3: atoms 0" in said
    assert "a.extxyz frame 5: multiplicity 8 is impossible" in said


def test_labels_by_other_names(evaluate, tiny_model: Path) -> None:
    frames = labelled(tiny_model, rattled())
    for atoms in frames:
        results, atoms.calc = atoms.calc.results, None
        atoms.info["REF_energy"], atoms.arrays["REF_forces"] = results["energy"], results["forces"]
    write("a.extxyz", frames)
    _, said = evaluate("a.extxyz", "--head", "solids-pbe", code=2)
    assert "it has REF_energy, REF_forces, which --energy-key, --forces-key and --stress-key may name" in said
    keys = ("--energy-key", "REF_energy", "--forces-key", "REF_forces")
    (row,), _ = evaluate("a.extxyz", "--head", "solids-pbe", *keys)
    assert row["energy_mae"] == pytest.approx(ENERGY, abs=1e-6)


def test_other_formats(evaluate, tiny_model: Path) -> None:
    frames = labelled(tiny_model, [*rattled(), *crystals()])
    for name in ("a.traj", "a.db"):
        write(name, frames)
    rows, _ = evaluate("a.traj", "a.db", "--head", "solids-pbe", "--plot", "plots")
    for row in rows:
        assert row["energy_mae"] == pytest.approx(ENERGY, abs=1e-6)
        assert row["stress_mae"] == pytest.approx(STRESS, abs=1e-8)
    assert sorted(path.name for path in Path("plots").iterdir()) == ["a-0.npz", "a-0.png", "a-1.npz", "a-1.png"]
    with np.load("plots/a-0.npz") as pairs:
        difference = pairs["energy_predicted"] - pairs["energy_reference"]
        np.testing.assert_allclose(difference, -ENERGY, atol=1e-6)
        assert pairs["forces_reference"].shape == pairs["forces_predicted"].shape


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("a.extxyz",), "does not say which head is to answer: give --head NAME, one of solids-pbe, molecules-pbe0"),
        (("a.extxyz", "--head", "solid-pbe"), "no head 'solid-pbe'; did you mean 'solids-pbe'?"),
        (("a.extzyx", "--head", "blend"), "a.extzyx: no such file; did you mean"),
        (("a.extxyz", "--head", "blend", "--split", "tset"), "no such split; did you mean 'test'?"),
        (("a.extxyz", "--head", "blend", "--split", "test"), "its test split is empty; try --split all"),
        (("a.extxyz", "--head", "blend", "--precision", "fp16"), "no precision 'fp16'"),
        (("a.extxyz", "--head", "blend", "--plot", "a.extxyz"), "expected a folder, got a file"),
        (("a.extxyz", "--head", "blend", "--plot", "no/such"), "there is no folder no"),
        (("bare.extxyz", "--head", "blend"), "there is no energy, forces or stress to compare with"),
        (("a.extxyz", "--head", "blend", "--energy-key", "REF"), "there is no energy called 'REF'"),
        (("text.extxyz", "--head", "blend"), "text.extxyz"),
        (("cut.npz", "--head", "blend"), "cut.npz: not a whole .npz"),
        (("other.npz", "--head", "blend"), "missing natoms, numbers, positions"),
        (("folder", "--head", "blend"), "folder"),
        (("a.extxyz", "--haed", "blend"), "No such option: --haed"),
        (("a.extxyz", "--head", "blend", "--limit", "0"), "greater than or equal to 1"),
    ],
)
def test_mistakes_are_told(evaluate, tiny_model: Path, arguments: tuple[str, ...], expected: str) -> None:
    write("a.extxyz", labelled(tiny_model, rattled(("H2O",))))
    write("bare.extxyz", rattled(("H2O",)))
    packed(Path("whole.npz"), labelled(tiny_model, rattled(("H2O",))))
    Path("text.extxyz").write_text("nothing of the kind\n")
    Path("cut.npz").write_bytes(Path("whole.npz").read_bytes()[:500])
    np.savez("other.npz", energy=[1.0])
    Path("folder").mkdir()
    _, said = evaluate(*arguments, code=2)
    assert expected in said


def test_the_only_head_answers(call: Call, tmp_path: Path) -> None:
    """What fine-tuning makes has one branch, and no need to be asked for it."""
    elements = {"H": -1.0, "O": -2.0}
    shape = PotentialConfig(PaiNNConfig(hidden=16, layers=1, radial_basis=4))
    model = save(Potential(shape, [BranchInfo("mine-pbe", e0=elements)], elements), tmp_path / "one.safetensors")
    write("a.extxyz", labelled(model, rattled(("H2O",)), head="mine-pbe"))
    call("evaluate", "a.extxyz", "--model", model, "--precision", "fp64", "--device", "cpu", "--json", "out.json")
    (row,) = json.loads(Path("out.json").read_text())["data"]
    assert row["head"] == "mine-pbe"
    assert row["energy_mae"] == pytest.approx(ENERGY, abs=1e-6)
