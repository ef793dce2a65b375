"""The official record, by the package matbench; without it, these are skipped (pip install --no-deps matbench)."""

from __future__ import annotations

import gzip
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from property_samples import small_potential
from pymatgen.core import Lattice, Structure
from typer.testing import CliRunner

from gfmpot.cli import app
from gfmpot.finetune.matbench import matbench_task
from gfmpot.finetune.matbench_package import Answers, official_task, write_record
from gfmpot.finetune.metrics import classification
from gfmpot.finetune.readers.matbench import UNITS
from gfmpot.models import save

pytestmark = pytest.mark.skipif(
    find_spec("matbench") is None or find_spec("matminer") is None,
    reason='needs Matbench: pip install --no-deps matbench && pip install "gfmpot[matbench]"',
)

SIZES = {"jdft2d": 636, "phonons": 1265, "dielectric": 4764, "log_gvrh": 10987, "log_kvrh": 10987}
SIZES |= {"perovskites": 18928, "mp_gap": 106113, "mp_is_metal": 106113, "mp_e_form": 132752}


def validated(path: Path) -> Any:
    """As the leaderboard reads it."""
    from matbench.bench import MatbenchBenchmark

    benchmark = MatbenchBenchmark.from_file(str(path))
    assert benchmark.validate() == {}
    assert benchmark.is_recorded
    return benchmark


def layered_crystals(path: Path) -> Path:
    """As many as there are, in the published layout; what is to be learnt follows from how far atoms are apart."""
    rng = np.random.default_rng(0)
    rows = []
    for length in rng.uniform(2.6, 3.4, 636):
        symbols = ("Cu", "Al", "Mg", "C")[int(rng.integers(4))]
        cell = Structure(Lattice.tetragonal(length, 12.0), [symbols, symbols], [[0, 0, 0], [0.5, 0.5, 0.1]])
        rows.append([cell.as_dict(), float(100 * (3.5 - length) + rng.normal())])
    with gzip.open(path, "wt") as file:
        json.dump({"index": list(range(636)), "columns": ["structure", "exfoliation_en"], "data": rows}, file)
    return path


@pytest.mark.parametrize("name", SIZES)
def test_folds_of_all_tasks_on_structures(name: str) -> None:
    official = official_task(name)
    assert official.name in UNITS
    assert official.column in UNITS[official.name]
    assert official.is_class == (name == "mp_is_metal") == matbench_task(official).target.is_class
    assert len(official.folds) == 5
    assert len(official.sha256) == 64
    tested = [key for fold in official.folds for key in fold.test]
    assert len(tested) == len(set(tested)) == SIZES[name]
    assert min(tested) == f"{official.name.replace('matbench', 'mb').replace('_', '-')}-{1:0{len(str(SIZES[name]))}d}"
    for fold in official.folds:
        assert not set(fold.train) & set(fold.test)
        assert len(fold.train) + len(fold.test) == SIZES[name]


def test_five_folds_make_a_valid_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    layered_crystals(tmp_path / "matbench_jdft2d.json.gz")
    save(small_potential(), tmp_path / "small.safetensors")
    command = ["matbench", "--task", "jdft2d", "--data", "matbench_jdft2d.json.gz", "--model", "small.safetensors"]
    command += ["--epochs", "1", "--batch", "64", "--device", "cpu", "--strategy", "frozen"]
    part = CliRunner().invoke(app, [*command, "--folds", "3,1"])
    assert part.exit_code == 0, part.output
    assert "not written: folds are missing" in part.output
    whole = CliRunner().invoke(app, command)
    assert whole.exit_code == 0, whole.output
    assert "is not the file that Matbench has published" in whole.output
    assert [f"training fold {n}" in whole.output for n in range(5)] == [True, False, True, False, True]
    assert "Initialized benchmark" not in whole.output  # a message of the package

    folder = tmp_path / "runs" / "matbench_jdft2d"
    task = validated(folder / "frozen-seed0" / "results.json.gz").tasks_map["matbench_jdft2d"]
    ours = json.loads((folder / "results.json").read_text())["runs"][0]
    for number, one in enumerate(ours["folds"]):
        results = task.results[f"fold_{number}"]
        for key in ("mae", "rmse", "max_error"):
            assert one["metrics"][key] == pytest.approx(results.scores[key], rel=1e-12)
            assert one["matbench"][key] == results.scores[key]
        with np.load(folder / f"fold-{number}" / "frozen-seed0" / "predictions.npz") as file:
            assert dict(zip(file["keys"].tolist(), file["value_predicted"].tolist(), strict=True)) == results.data
        assert results.parameters["strategy"] == "frozen"
        assert results.parameters["trained_on"] + one["validated_by"] == len(task.validation[f"fold_{number}"].train)
    assert ours["over_folds"]["mae"] == pytest.approx(task.scores.mae.mean, rel=1e-12)
    assert ours["over_folds"]["std"] == pytest.approx(task.scores.mae.std, rel=1e-9)
    assert ours["over_folds"]["rmse"] == pytest.approx(task.scores.rmse.mean, rel=1e-12)
    assert ours["over_folds"]["max_error"] == pytest.approx(task.scores.max_error.max, rel=1e-12)


def test_a_class_is_recorded_by_probabilities(tmp_path: Path) -> None:
    official = official_task("mp_is_metal")
    rng = np.random.default_rng(0)
    keys = sorted({*official.folds[0].train, *official.folds[0].test})
    values = dict(zip(keys, rng.integers(0, 2, len(keys)).astype(float).tolist(), strict=True))
    answers, own = [], []
    for fold in official.folds:
        true = np.array([values[key] for key in fold.test])
        chances = np.clip(0.3 * true + rng.uniform(0, 0.7, len(true)), 0, 1)
        answers.append(Answers(chances, {"seed": 0}))
        own.append(classification(chances, true))
    path = tmp_path / "results.json.gz"
    scores = write_record(official, values, answers, {"software": "a test"}, path)
    benchmark = validated(path)
    assert benchmark.user_metadata == {"software": "a test"}
    results = benchmark.tasks_map["matbench_mp_is_metal"].results
    assert list(results.fold_2.data.values()) == answers[2].predictions.tolist()
    for ours, theirs in zip(own, scores, strict=True):
        assert ours["accuracy"] == pytest.approx(theirs["accuracy"], rel=1e-12)
        assert ours["f1"] == pytest.approx(theirs["f1"], rel=1e-12)
        # What our notes say of the package's number.
        assert theirs["rocauc"] == pytest.approx(theirs["balanced_accuracy"], rel=1e-12)
        assert ours["roc_auc"] > theirs["rocauc"] + 0.01


def test_what_matbench_does_not_accept_is_not_written(tmp_path: Path) -> None:
    official = official_task("jdft2d")
    keys = [*official.folds[0].train, *official.folds[0].test]
    short = [Answers(np.zeros(len(fold.test) - 1), {}) for fold in official.folds]
    with pytest.raises(ValueError, match="Prediction outputs must be the same length"):
        write_record(official, dict.fromkeys(keys, 1.0), short, {}, tmp_path / "results.json.gz")
    assert not list(tmp_path.iterdir())
