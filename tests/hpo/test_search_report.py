"""Reports of searches: what is drawn, and what is said where nothing can be drawn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gfmpot.hpo.folder import CampaignFolder
from gfmpot.hpo.protocol import Protocol
from gfmpot.hpo.records import RESULT, TrialResult, TrialSpec, Validation, add_progress, write_record
from gfmpot.hpo.space import build_space
from gfmpot.training.report import write_report
from gfmpot.training.report_importance import importance, permutation
from gfmpot.training.report_search import read_search
from gfmpot.training.report_search_plots import front, parallel_coordinates

pytest.importorskip("matplotlib")

ALL = {"search-best", "search-trajectories", "search-coordinates", "search-importance", "search-pareto"}


def searched(path: Path, protocol: Protocol, trials: int, seed: int = 0) -> Path:
    """A campaign whose loss depends on the learning rate, and on nothing else."""
    rng = np.random.default_rng(seed)
    space = build_space("painn", ["head.*", "loss.energy", "loss.stress", "optim.matrix_learning_rate"])
    folder = CampaignFolder(path)
    folder.begin(replace(protocol, space=space))
    for i in range(trials):
        values = {p.name: _drawn(p.kind, p.low, p.high, p.choices, rng) for p in space.parameters}
        values["optim.learning_rate"] = float(10 ** rng.uniform(-5, -2.5))
        loss = 0.2 + (np.log10(values["optim.learning_rate"]) + 3.2) ** 2
        trial = folder.add(TrialSpec(i, values, {}, submitted=10.0 * i))
        for epoch in range(1, 4):
            add_progress(trial.folder, Validation(float(epoch), loss + 1 / epoch, float(epoch), {}))
        result = TrialResult(
            i, "completed", "", loss, {"a": {"energy_mae": 0.1}}, 3.0, 1.0 + i % 7, gathered=10.0 * i + 9
        )
        if i % 6 == 5:
            result = replace(result, status="out_of_memory", reason="killed by SIGKILL & so on")
        write_record(trial.folder / RESULT, replace(result, core_seconds=20.0 + i % 5))
    folder.write_table(folder.trials())
    return path


def _drawn(kind: str, low: float, high: float, choices: tuple[object, ...], rng: np.random.Generator) -> object:
    if kind == "choice":
        return choices[rng.integers(len(choices))]
    return int(rng.integers(int(low), int(high) + 1)) if kind == "int" else float(rng.uniform(low, high))


def test_one_search(protocol: Protocol, tmp_path: Path) -> None:
    page = write_report([searched(tmp_path / "s", protocol, 36)]).read_text()
    drawn = {path.stem: path.stat().st_size for path in (tmp_path / "s" / "report").glob("*.png")}
    assert set(drawn) == ALL
    assert min(drawn.values()) > 10_000
    for text in (
        "best validation loss",
        "6 out of memory",
        "killed by SIGKILL &amp; so on",
        "6 of 6 trials that failed",
    ):
        assert text in page


def test_several_searches(protocol: Protocol, tmp_path: Path) -> None:
    folders = [searched(tmp_path / name, protocol, 9, seed) for seed, name in enumerate(("a", "b", "c"))]
    page = write_report(folders, tmp_path / "cmp.html").read_text()
    assert {path.stem for path in (tmp_path / "cmp").glob("*.png")} == ALL - {"search-coordinates", "search-importance"}
    assert "Comparison of 3 searches" in page
    assert "optim.learning_rate" in page


def test_too_few_trials_say_nothing_of_importance(protocol: Protocol, tmp_path: Path) -> None:
    search = read_search(searched(tmp_path / "s", protocol, 12))
    assert importance(search) == (None, "Importance of hyper-parameters: needs 20 successful trials, there are 10.")


def test_noise_has_no_importance(protocol: Protocol, tmp_path: Path) -> None:
    search = read_search(searched(tmp_path / "s", protocol, 40))
    losses = np.exp(np.random.default_rng(1).normal(size=40))
    for row, loss in zip(search.rows, losses, strict=True):
        row["m:validation_loss"] = str(loss)
    picture, why = importance(search)
    assert picture is None
    assert "too few to tell" in why


def test_what_matters_is_found() -> None:
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    a, b, kind = rng.normal(size=80), rng.normal(size=80), rng.choice(["x", "y"], size=80)
    losses = np.exp(2 * a + (kind == "y"))
    found = permutation(["p:a", "p:b", "p:kind"], [list(map(str, column)) for column in (a, b, kind)], losses)
    assert found.explained > 0.7
    assert found.values[0] > found.values[2] > 5 * abs(found.values[1])
    assert found.trend[0] > 0.8
    assert np.isnan(found.trend[2])


def test_without_scikit_learn(protocol: Protocol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search = read_search(searched(tmp_path / "s", protocol, 40))
    monkeypatch.setitem(__import__("sys").modules, "sklearn.ensemble", None)
    assert "needs scikit-learn" in importance(search)[1]


def test_front() -> None:
    cost, loss = np.array([3.0, 1.0, 2.0, 2.0, 5.0]), np.array([1.0, 3.0, 2.0, 4.0, 1.0])
    assert front(cost, loss) == [1, 2, 0]


def test_all_failed_or_all_alike(protocol: Protocol, tmp_path: Path) -> None:
    folder = searched(tmp_path / "s", protocol, 6)
    text = (folder / "results.csv").read_text().replace("completed", "failed")
    lines = text.splitlines()
    column = lines[0].split(",").index("objective")
    cells = [line.split(",") for line in lines]
    for row in cells[1:]:
        row[column] = "F_failed"
    (folder / "results.csv").write_text("\n".join(",".join(row) for row in cells) + "\n")
    assert parallel_coordinates(read_search(folder)) is None
    assert "failed" in write_report([folder]).read_text()
