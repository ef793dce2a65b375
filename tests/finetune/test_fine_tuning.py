"""Strategies, runs and reports of fine-tuning, and branches that are added to a model."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk
from fine_tuning import GAP, TASK, metal, metals, two_branches, written

from gfmpot import GFMCalculator
from gfmpot.finetune.adding import trained_beside, unaligned, with_branch
from gfmpot.finetune.energies import branch_info, prepare
from gfmpot.finetune.examples import Examples, read_examples
from gfmpot.finetune.reader import build_reader
from gfmpot.finetune.report import write_report
from gfmpot.finetune.running import Outcome, run_task
from gfmpot.finetune.setting import Setting
from gfmpot.finetune.strategies import begun, closest_branch
from gfmpot.finetune.task import Strategy, Task
from gfmpot.graph import AtomGraph
from gfmpot.models import BranchInfo, Potential, load, load_property, save
from gfmpot.models.potential import rebuilt
from gfmpot.ranks.signals import EndOfJob
from gfmpot.training.branch_weights import WeightConfig
from gfmpot.training.corpus import BranchCorpus, graphs_of
from gfmpot.training.error_estimate import with_error_estimate
from gfmpot.training.parameters import is_shared

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    path = written(tmp_path_factory.mktemp("data") / "metals.xyz", metals(30))
    return read_examples(TASK, build_reader("structures"), path)


@pytest.fixture(scope="module")
def model() -> Potential:
    return two_branches()


def run(task: Task, data: Examples, model: Potential, folder: Path, *strategies: Strategy) -> list[Outcome]:
    return run_task(task, data, [Setting(strategy) for strategy in strategies], model, folder, device=CPU)


def shared(potential: Potential) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in potential.named_parameters() if is_shared(name)}


def same(one: Potential, other: Potential) -> bool:
    return all(torch.equal(a, b) for a, b in zip(shared(one).values(), shared(other).values(), strict=True))


@pytest.mark.parametrize(
    ("strategy", "kept"), [("scratch", False), ("frozen", True), ("unfrozen", True), ("keep", True)]
)
def test_what_is_taken_from_the_model(strategy: Strategy, kept: bool, data: Examples, model: Potential) -> None:
    info = branch_info(TASK, data.part("train"), None)
    potential, _ = begun(strategy, model, model.config, info, data.part("train"), 0)
    assert same(potential, model) == kept
    assert potential.branch_names == ["metals-emt"]


def test_the_closest_branch_is_found_and_kept(data: Examples, model: Potential) -> None:
    """Labels that the second branch gave itself, shifted by an energy per atom."""
    frames = data.part("train")
    graphs = [frames.graph(i, model.cutoff, 1) for i in range(len(frames))]
    answers = [model(graph, head="all-emt") for graph in graphs]
    energy = np.array([float(answer.energy) for answer in answers]) + 3.0 * frames.atoms_per_structure
    forces = np.concatenate([answer.forces.numpy() for answer in answers])
    labelled = dataclasses.replace(frames, energy=energy, forces=forces)
    best = closest_branch(model, labelled)
    assert best.name == "all-emt"
    assert best.energy_mae < 1e-4
    assert best.forces_mae < 1e-4
    assert best.e0["Cu"] == pytest.approx(1.0, abs=0.01)
    kept, _ = begun("keep", model, model.config, branch_info(TASK, labelled, None), labelled, 0)
    for own, answer in zip(graphs, answers, strict=True):
        forces_kept = kept(own.replace(branch=torch.tensor([0]))).forces
        assert forces_kept is not None
        torch.testing.assert_close(forces_kept, answer.forces, rtol=1e-5, atol=1e-6)


def test_rare_elements_have_reference_energies_too(model: Potential) -> None:
    """Of more structures than branches are judged by, one alone has hydrogen."""
    from gfmpot.data import FrameSet

    frames = [metal("Cu", i) for i in range(250)]
    frames[1].numbers[0] = 1
    best = closest_branch(model, FrameSet.from_atoms(frames))
    assert best.e0.keys() == {"Cu", "H"}


def test_new_heads_begin_with_what_a_branch_knows_of_elements(model: Potential) -> None:
    """One alloy says nothing of how copper and aluminium share its energy; the branch's table does."""
    from gfmpot.data import FrameSet

    table = {"H": -3.0, "Al": -5.0, "Cu": -20.0}
    known = rebuilt(model, branches=[model.branches[0], dataclasses.replace(model.branches[1], e0=table)])
    alloy = metal("Cu", 0)
    alloy.numbers[0] = 13
    frames = FrameSet.from_atoms([alloy])
    labelled = dataclasses.replace(frames, energy=np.array([-5.0 - 3 * 20.0 + 0.4]))
    with_it, without = (branch_info(TASK, labelled, m).e0 for m in (known, None))
    assert with_it == pytest.approx({"Al": -4.9, "Cu": -19.9}, abs=1e-3)
    assert abs(without["Al"] - without["Cu"]) < 0.1
    formation = dataclasses.replace(frames, energy=np.array([-0.8]))  # of another kind than the table
    assert branch_info(TASK, formation, known).e0 == pytest.approx({"Al": -0.2, "Cu": -0.2}, abs=0.1)


def test_elements_that_the_model_has_never_seen(data: Examples, tmp_path: Path) -> None:
    stranger = two_branches(("H", "Cu"))
    with pytest.raises(ValueError, match=r"has never seen Al, which the data have; .* --strategy scratch"):
        prepare(TASK, Setting("unfrozen"), data, stranger)
    with pytest.raises(ValueError, match="has never seen Al"):
        run(TASK, data, stranger, tmp_path / "runs", "unfrozen")
    assert not (tmp_path / "runs").exists()


@pytest.fixture(scope="module")
def runs(data: Examples, model: Potential, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Outcome]]:
    folder = tmp_path_factory.mktemp("runs")
    return folder, run(TASK, data, model, folder, "scratch", "frozen", "unfrozen", "keep", "lora")


def test_runs_learn_and_say_how_well(runs: tuple[Path, list[Outcome]], data: Examples, model: Potential) -> None:
    _, outcomes = runs
    labels = data.part("test").energy / data.part("test").atoms_per_structure
    for outcome in outcomes:
        assert outcome.metrics["energy_per_atom_mae"] < np.abs(labels - labels.mean()).mean()
        assert outcome.metrics["structures"] == 6
        potential = load(outcome.folder / "model.safetensors")
        assert same(potential, model) == (outcome.setting.strategy == "frozen")
        assert potential.metadata["metrics"]["metals"] == outcome.metrics


def test_the_errors_are_those_of_the_file(runs: tuple[Path, list[Outcome]], data: Examples) -> None:
    """What is written is what is measured: errors of the calculator are those that were reported."""
    outcome = runs[1][2]
    test = data.part("test")
    errors, wrong = [], []
    for i in range(len(test)):
        atoms = bulk("Cu", cubic=True)
        rows = slice(test.offsets[i], test.offsets[i + 1])
        atoms.numbers, atoms.cell, atoms.positions = test.numbers[rows], test.cell[i], test.positions[rows]
        atoms.calc = GFMCalculator(outcome.folder / "model.safetensors")
        errors.append(abs(atoms.get_potential_energy() - test.energy[i]) / len(atoms))
        wrong.append(np.abs(atoms.get_forces() - test.forces[rows]))
    assert np.mean(errors) == pytest.approx(outcome.metrics["energy_per_atom_mae"], rel=1e-3)
    assert np.mean(np.concatenate(wrong)) == pytest.approx(outcome.metrics["forces_mae"], rel=1e-3)


def test_done_runs_are_not_repeated_and_others_refused(
    runs: tuple[Path, list[Outcome]], data: Examples, model: Potential
) -> None:
    folder, outcomes = runs
    told: list[Setting] = []
    again = run_task(TASK, data, [o.setting for o in outcomes], model, folder, device=CPU, told=told.append)
    assert not told
    assert [o.metrics for o in again] == [o.metrics for o in outcomes]
    with pytest.raises(ValueError, match=r"is a run with other .* \(task.epochs: 12 → 1\); use another --folder"):
        run(dataclasses.replace(TASK, epochs=1), data, model, folder, "frozen")


def test_the_same_seed_gives_the_same_metrics(
    runs: tuple[Path, list[Outcome]], data: Examples, model: Potential, tmp_path: Path
) -> None:
    again = run(TASK, data, model, tmp_path, "unfrozen")[0]
    other = run_task(TASK, data, [Setting("unfrozen", seed=1)], model, tmp_path, device=CPU)[0]
    assert again.metrics == runs[1][2].metrics != other.metrics


def test_it_goes_on_after_a_kill(
    runs: tuple[Path, list[Outcome]], data: Examples, model: Potential, tmp_path: Path
) -> None:
    saved = save(model, tmp_path / "two.safetensors")
    file = written(tmp_path / "metals.xyz", metals(30))
    script = Path(__file__).with_name("kill_fine_tuning.py")
    command = [sys.executable, str(script), str(file), str(saved), str(tmp_path / "runs")]
    killed = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert list((tmp_path / "runs" / "unfrozen-seed0" / "state").glob("step-*"))
    resumed = run(TASK, data, model, tmp_path / "runs", "unfrozen")[0]
    assert resumed.metrics == runs[1][2].metrics


def test_training_never_ends_worse_than_it_began(data: Examples, model: Potential, tmp_path: Path) -> None:
    """Labels that the branch knows, and a rate that spoils everything: the weights of the beginning are kept."""
    graphs = [data.frames.graph(i, model.cutoff, 1) for i in range(len(data.frames))]
    answers = [model(graph, head="all-emt") for graph in graphs]
    energy = np.array([float(answer.energy) for answer in answers])
    forces = np.concatenate([answer.forces.numpy() for answer in answers])
    known = dataclasses.replace(data, frames=dataclasses.replace(data.frames, energy=energy, forces=forces))
    wild = dataclasses.replace(TASK, epochs=1, learning_rate=0.1, backbone_learning_rate=0.1)
    outcome = run(wild, known, model, tmp_path, "keep")[0]
    assert outcome.metrics["energy_per_atom_mae"] < 1e-3
    assert outcome.facts["valid_loss"] < 1e-2


def test_reports(runs: tuple[Path, list[Outcome]], data: Examples) -> None:
    folder, outcomes = runs
    page = write_report(TASK, data, outcomes, folder)
    text, results = page.read_text(), json.loads((folder / "results.json").read_text())
    assert [row["name"] for row in results["rows"]] == ["scratch", "frozen", "unfrozen", "keep", "lora"]
    assert results["rows"][1]["means"][0] == pytest.approx(1e3 * outcomes[1].metrics["energy_per_atom_mae"])
    assert results["sides"] == {"train": 18, "valid": 6, "test": 6}
    for name in ("parity.png", "curves.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
        assert name in text


def test_seeds_have_a_mean_and_a_deviation(data: Examples, model: Potential, tmp_path: Path) -> None:
    task = dataclasses.replace(TASK, epochs=1)
    settings = [Setting("frozen", seed=seed, train_size=size) for size in (6, 12) for seed in (0, 1)]
    outcomes = run_task(task, data, settings, model, tmp_path, device=CPU)
    write_report(task, data, outcomes, tmp_path)
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [(row["name"], row["structures"]) for row in rows] == [("frozen-6", 6), ("frozen-12", 12)]
    values = [1e3 * o.metrics["forces_mae"] for o in outcomes[:2]]
    assert rows[0]["means"][1] == pytest.approx(np.mean(values))
    assert rows[0]["deviations"][1] == pytest.approx(np.std(values, ddof=1))
    assert (tmp_path / "sizes.png").exists()


def test_more_training_structures_than_there_are(data: Examples, model: Potential, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot train on 19 structures: the training side has 18"):
        run_task(TASK, data, [Setting(train_size=19)], model, tmp_path, device=CPU)


def test_properties(tmp_path: Path, model: Potential) -> None:
    path = written(tmp_path / "metals.xyz", metals(30))
    data = read_examples(GAP, build_reader("structures"), path)
    outcomes = run(GAP, data, model, tmp_path / "runs", "scratch", "frozen", "unfrozen")
    for outcome in outcomes:
        trained = load_property(outcome.folder / "model.safetensors")
        assert trained.target == GAP.target
        assert outcome.metrics["mae"] > 0
        assert outcome.facts["hours"] > 0
    with pytest.raises(ValueError, match="strategy lora is for energies, which gap is not"):
        run(GAP, data, model, tmp_path / "runs", "lora")


def test_relative_energies_have_no_zero(tmp_path: Path, model: Potential) -> None:
    """Labels shifted by anything for each group: the same is learnt, and the same error is measured."""
    task = dataclasses.replace(TASK, forces=False, relative=True, split_by="group", epochs=2)
    metrics = []
    for shift in (0.0, 7.0):
        frames = metals(40)
        for i, atoms in enumerate(frames):
            atoms.info["group"] = f"family{i // 4}"
            atoms.calc.results["energy"] += shift * (i // 4)
        data = read_examples(task, build_reader("structures"), written(tmp_path / f"{shift:g}.xyz", frames))
        metrics.append(run(task, data, model, tmp_path / f"runs{shift:g}", "keep")[0].metrics)
    assert metrics[0]["energy_mae"] == pytest.approx(metrics[1]["energy_mae"], rel=1e-3)


@pytest.fixture(scope="module")
def grown(runs: tuple[Path, list[Outcome]], data: Examples, model: Potential) -> Potential:
    train = data.part("train")
    one = load(runs[1][1].folder / "model.safetensors")
    return with_branch(model, one, graphs_of(train, np.arange(len(train)), model.config, 0))


def test_an_added_branch_leaves_all_other_answers(grown: Potential, model: Potential) -> None:
    assert grown.branch_names == ["few-pbe", "all-emt", "metals-emt"]
    for symbol in ("Cu", "Al"):
        before, after = metal(symbol, 1), metal(symbol, 1)
        before.calc, after.calc = GFMCalculator(model), GFMCalculator(grown)
        assert after.get_potential_energy() == before.get_potential_energy()
        assert (after.get_forces() == before.get_forces()).all()
        assert after.calc.results["branch_weights"]["metals-emt"] == 0.0


def test_an_added_branch_answers_as_it_was_trained(grown: Potential, runs: tuple[Path, list[Outcome]]) -> None:
    alone, added = metal("Cu", 1), metal("Cu", 1)
    alone.calc = GFMCalculator(runs[1][1].folder / "model.safetensors")
    added.calc = GFMCalculator(grown, head="metals-emt")
    assert added.get_potential_energy() == pytest.approx(alone.get_potential_energy(), abs=1e-6)
    np.testing.assert_allclose(added.get_forces(), alone.get_forces(), atol=1e-6)


@pytest.mark.parametrize("enough", [True, False])
def test_an_added_branch_brings_what_it_learnt_from(
    enough: bool, runs: tuple[Path, list[Outcome]], data: Examples, model: Potential
) -> None:
    """And else it takes for familiar what all branches learnt from; those of the model stay as they are."""
    train, kept = data.part("train"), np.arange(len(data.part("train")))

    def graphs(branch: int) -> Iterator[AtomGraph]:
        return graphs_of(train, kept, model.config, branch)

    knowing = with_error_estimate(model, graphs(1), graphs(1))
    one = load(runs[1][1].folder / "model.safetensors")
    one = rebuilt(one, config=dataclasses.replace(one.config, error_hidden=None))
    one = with_error_estimate(one, graphs(0), graphs(0)) if enough else one
    found = with_branch(knowing, one, graphs(0))
    graph = train.graph(0, model.cutoff)
    before, after = (m(graph, head="all-emt") for m in (knowing, found))
    torch.testing.assert_close(after.novelty, before.novelty, rtol=0, atol=0)
    torch.testing.assert_close(after.energy_std, before.energy_std, rtol=0, atol=0)
    new = found(graph, head="metals-emt")
    assert torch.isnan(new.energy_std).all()
    assert 0 < float(new.novelty.min()) < 1.2
    if enough:
        torch.testing.assert_close(new.novelty, one(graph).novelty)


def test_a_branch_of_more_elements_moves_to_the_scale_of_the_model(data: Examples, model: Potential) -> None:
    table = dict.fromkeys(("H", "Al", "Cu", "Ni"), 0.0)
    one = Potential(model.config, [BranchInfo("wide-emt", "EMT", e0=table)], table)
    shared = {name: tensor for name, tensor in model.state_dict().items() if is_shared(name)}
    one.load_state_dict(shared, strict=False)
    train = data.part("train")
    found = with_branch(model, one, graphs_of(train, np.arange(len(train)), model.config, 0))
    shifts = found.branches[-1].alignment
    assert min(abs(shifts["Al"]), abs(shifts["Cu"])) > 1e-4
    aligned, _ = found.every_branch(train.graph(0, model.cutoff), derivatives=False)
    before, _ = unaligned(model, one).every_branch(train.graph(0, model.cutoff), derivatives=False)
    assert abs(aligned[0, 2] - aligned[0, 1]) < abs(before[0, 2] - before[0, 1])


def test_branches_that_cannot_be_added(grown: Potential, model: Potential, runs: tuple[Path, list[Outcome]]) -> None:
    frozen, unfrozen = (load(runs[1][i].folder / "model.safetensors") for i in (1, 2))
    with pytest.raises(ValueError, match="has a branch 'metals-emt' already"):
        with_branch(grown, frozen, [])
    with pytest.raises(ValueError, match="trained on another backbone"):
        with_branch(model, unfrozen, [])


def test_replay(data: Examples, model: Potential, tmp_path: Path) -> None:
    """The branches of the model are trained on, and the new one has a say in the blend."""
    others = [_corpus(branch, model) for branch in range(2)]
    settings = WeightConfig(structures=20, epochs=20)
    found = trained_beside(
        dataclasses.replace(TASK, epochs=3),
        Setting("keep"),
        data,
        model,
        others,
        0.5,
        tmp_path,
        CPU,
        weights=settings,
        end=EndOfJob(),
    )
    assert found.branch_names == [*model.branch_names, "metals-emt"]
    assert set(found.metadata["metrics"]["branches"]) == set(found.branch_names)
    atoms = metal("Cu", 3)
    atoms.calc = GFMCalculator(found)
    atoms.get_potential_energy()
    assert atoms.calc.results["branch_weights"]["metals-emt"] > 0


def _corpus(branch: int, model: Potential) -> BranchCorpus:
    from gfmpot.data import FrameSet

    frames = FrameSet.from_atoms([metal("Al", 100 * branch + i) for i in range(24)])
    parts = {name: frames.subset(range(i, 24, 3)) for i, name in enumerate(("train", "valid", "test"))}
    return BranchCorpus(model.branches[branch], 1.0, parts, {}, {"frames": f"made here {branch}"})  # type: ignore[arg-type]


def test_too_few_structures_for_all_elements(data: Examples, model: Potential, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"1 training structures lack .*, which those to validate or test have"):
        run_task(TASK, data, [Setting(train_size=1)], model, tmp_path, device=CPU)


def test_training_that_does_not_help_is_told(data: Examples, model: Potential, tmp_path: Path) -> None:
    """Steps too small to change a weight: what it began with is kept, and the page says so."""
    task = dataclasses.replace(TASK, epochs=1, learning_rate=1e-30, backbone_learning_rate=1e-30)
    (outcome,) = run(task, data, model, tmp_path, "keep")
    assert outcome.facts["kept_step"] == 0
    page = write_report(task, data, [outcome], tmp_path).read_text()
    assert "keep-seed0: training did not help" in page
    (helped,) = run(TASK, data, model, tmp_path / "more", "unfrozen")
    assert helped.facts["kept_step"] > 0
    assert "did not help" not in write_report(TASK, data, [helped], tmp_path / "more").read_text()
