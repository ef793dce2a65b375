"""Turns, answers and failures of benchmarks/peers.py, with ASE's EMT as the peer."""

from __future__ import annotations

import argparse
import importlib
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def peers(load: Callable[[str], ModuleType]) -> ModuleType:
    return load("peers")


@pytest.fixture(scope="module")
def workers(peers: ModuleType) -> ModuleType:
    return importlib.import_module("peer_workers")


@pytest.fixture(scope="module")
def tables(peers: ModuleType) -> ModuleType:
    return importlib.import_module("peer_tables")


class FakeWorker:
    """Says how many seconds it took, one more each time, and writes down when it was asked."""

    def __init__(self, label: str, asked: list[tuple[str, str, int]], error: type[Exception] | None = None) -> None:
        self.label, self.asked, self.error, self.seconds = label, asked, error, 0.0

    def ask(self, question: str, structures: list[Atoms], **details: Any) -> dict[str, Any]:
        if question == "edges":
            return {"edges": [len(atoms) for atoms in structures]}
        self.asked.append((self.label, question, len(structures[0])))
        if self.error and question == "dynamics" and len(structures[0]) == 216:
            raise self.error("too large")
        self.seconds += 1.0
        return {"wall": self.seconds, "cpu": -1.0}


def measured(peers: ModuleType, rounds: int) -> tuple[list[Any], dict[str, str], list[tuple[str, str, int]]]:
    asked: list[tuple[str, str, int]] = []
    rows = [(FakeWorker("a fp32", asked), {}), (FakeWorker("b fp32", asked, peers.PeerError), {})]
    given = argparse.Namespace(rounds=rounds, steps=[3, 2, 1], warm_up=1, timestep=1.0, crystal="Si", clock="wall")
    missing: dict[str, str] = {}
    peers.measure(rows, given, missing)
    return [row for _, row in rows], missing, asked


def copper(seed: int = 0) -> Atoms:
    atoms = bulk("Cu", cubic=True) * 2
    atoms.rattle(0.05, seed=seed)
    return atoms


def test_peers_take_turns_within_a_round(peers: ModuleType) -> None:
    _, _, asked = measured(peers, rounds=1)
    a_round = [(label, "dynamics", size) for size in (64, 216, 864) for label in ("a fp32", "b fp32")]
    a_round += [("a fp32", "many", 8), ("b fp32", "many", 8)]
    assert asked == a_round + [each for each in a_round if each != ("b fp32", "dynamics", 216)]


def test_warm_up_is_not_counted_and_steps_are_evaluations(peers: ModuleType) -> None:
    (row, _), _, _ = measured(peers, rounds=2)
    assert row["ms/step"][64] == pytest.approx([5000 / 4, 9000 / 4])  # questions 5 and 9 of 12, 4 evaluations each
    assert row["structures/s"] == pytest.approx([64 / 8, 64 / 12])
    assert row["edges"] == {64: 64, 216: 216, 864: 864}


def test_what_fails_is_said_and_not_asked_again(peers: ModuleType) -> None:
    (_, row), missing, _ = measured(peers, rounds=2)
    assert missing == {"b fp32, 216 atoms": "too large"}
    assert row["ms/step"][216] == []
    assert len(row["ms/step"][864]) == 2


def test_starts_of_a_round_are_the_same_crystal_elsewhere(peers: ModuleType) -> None:
    first, second, again = (peers.start_of_run("Si", 64, seed) for seed in (1, 2, 1))
    assert len(first) == 64
    np.testing.assert_array_equal(first.positions, again.positions)
    assert np.abs(first.get_distance(0, 1, mic=True) - second.get_distance(0, 1, mic=True)) < 1e-9
    assert np.abs(first.positions - second.positions).max() > 1.0


def test_force_error_is_that_of_the_same_model(peers: ModuleType) -> None:
    forces = {"a fp32": [[1.0, 0.5]], "a fp64": [[1.0, 0.25]], "b fp32": [[7.0, 7.0]]}
    rows = [(argparse.Namespace(label=label, forces=np.array(value)), {}) for label, value in forces.items()]
    peers.force_errors(rows)
    assert rows[0][1] == {"force error (eV/Å)": 0.25, "relative force error": 0.25}
    assert rows[1][1] == rows[2][1] == {}


def test_peer_without_an_environment_is_named(peers: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "interpreter", lambda name: None)
    given = argparse.Namespace(peers=["chgnet"], starts=2, threads=1, memory=4.0, crystal="Si")
    missing: dict[str, str] = {}
    assert peers.start(given, peers.ExitStack(), missing) == []
    assert "benchmarks/envs/README.md" in missing["chgnet"]


def test_every_peer_has_requirements_and_an_adapter(peers: ModuleType) -> None:
    models = importlib.import_module("peer_models").PEERS
    for name in peers.NAMES:
        assert name in models or name in peers.MISSING
        assert name == "gfmpot" or (BENCHMARKS / "envs" / f"{name}.txt").exists()


def test_worker_answers_as_the_calculator_does(workers: ModuleType) -> None:
    structures = [copper(seed) for seed in range(3)]
    options = {"threads": 1, "memory": 8.0, "python": Path(sys.executable), "first": structures[0]}
    worker = workers.Worker("emt", "fp32", **options)
    try:
        expected = [EMT().get_forces(atoms) for atoms in structures]
        np.testing.assert_array_equal(worker.forces, expected[0])
        np.testing.assert_allclose(worker.ask("many", structures)["forces"], expected, atol=1e-12)
        assert worker.about["cutoff"] == 6.0
        took = worker.ask("dynamics", structures[:1], steps=2, timestep=1.0)
        assert 0.0 < took["cpu"] < worker.cold
        assert 0.0 < took["wall"] < worker.cold
        with pytest.raises(workers.PeerError, match="No EMT-potential for Si"):
            worker.ask("forces", [bulk("Si")])
        assert worker.ask("edges", structures[:1])["edges"][0] > 0  # it lives on
    finally:
        worker.close()
    assert worker.process.returncode == 0


def test_worker_that_ends_leaves_its_last_words(workers: ModuleType) -> None:
    options = {"threads": 1, "memory": 8.0, "python": Path(sys.executable), "first": copper()}
    with pytest.raises(workers.PeerError, match=r"it ended: (.|\n)*KeyError: 'nobody'"):
        workers.Worker("nobody", "fp32", **options)


def test_structures_pass_unchanged(workers: ModuleType, peers: ModuleType) -> None:
    atoms = peers.start_of_run("NaCl", 64, 0)
    back = workers.unpacked(json.loads(json.dumps(workers.packed(atoms))))
    assert back == atoms
    np.testing.assert_array_equal(back.get_momenta(), atoms.get_momenta())


def test_dynamics_conserves_energy(workers: ModuleType) -> None:
    peer, atoms = importlib.import_module("peer_models").PEERS["emt"]("fp32"), copper()
    atoms.calc = EMT()
    before = atoms.get_total_energy()
    start = atoms.positions.copy()
    answers = io.StringIO()
    workers.serve(peer, [json.dumps({"do": "dance", "structures": []})], answers)
    assert "no question 'dance'" in answers.getvalue()
    workers.answer(peer, {"do": "dynamics", "steps": 20, "timestep": 1.0}, [atoms])
    assert np.abs(atoms.positions - start).max() > 1e-3
    assert atoms.get_total_energy() == pytest.approx(before, abs=1e-3)


def test_tables_and_chart_with_gaps(tables: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    about = {"version": "1", "model": "m", "trained": False, "cutoff": 5.0, "edges": {64: 100, 216: 1000}}
    ours = {"ms/step": {64: [1.0, 2.0, 3.0], 216: [8.0]}, "structures/s": [9.0], "starts (s)": [1.0], **about}
    ours |= {"trained": True, "force error (eV/Å)": 1e-6, "relative force error": 1e-7}
    theirs = {"ms/step": {64: [30.0], 216: []}, "structures/s": [], "starts (s)": [2.0, 4.0], **about}
    rows = {"gfmpot fp32": ours, "other fp32": theirs}
    tables.show(rows, {"other fp32, 216 atoms": "too large"})
    said = capsys.readouterr().out
    for text in ("2 (1–3)", "15.00×", "–", "1.0e-06 (1.0e-07)", "untrained weights", "216 atoms: too large"):
        assert text in said
    tables.draw(rows, tmp_path / "bars.png")
    assert (tmp_path / "bars.png").read_bytes().startswith(b"\x89PNG")
