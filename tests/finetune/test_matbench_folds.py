"""Matbench's folds, with folds of our own: sides, runs that go on, tables; the package matbench is not needed."""

from __future__ import annotations

import dataclasses
import gzip
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from property_samples import METAL, labelled, small_potential
from pymatgen.core import Lattice, Structure

from gfmpot.data import FrameSet
from gfmpot.finetune.examples import Examples
from gfmpot.finetune.matbench import FoldRun, fold_examples, known_elements, matbench_task, read_all, run_folds
from gfmpot.finetune.matbench_package import Fold, Official, official_task, write_record
from gfmpot.finetune.matbench_report import (
    SettingRuns,
    notes_of,
    over_folds,
    recorded,
    rows_of,
    write_matbench_report,
)
from gfmpot.finetune.report import columns_of
from gfmpot.finetune.setting import Setting
from gfmpot.finetune.task import Task

CPU = torch.device("cpu")
SETTING = Setting("unfrozen")
SIZE = 30
KEYS = tuple(f"mb-jdft2d-{i + 1:02d}" for i in range(SIZE))


def folds(keys: tuple[str, ...] = KEYS) -> tuple[Fold, ...]:
    """Every fifth structure is tested, in an order that is not that of the file."""
    return tuple(Fold(tuple(k for k in keys if k not in keys[i::5]), keys[i::5][::-1]) for i in range(5))


JDFT = Official("matbench_jdft2d", "exfoliation_en", is_class=False, folds=folds(), sha256="")
METALS = Official("matbench_mp_is_metal", "is_metal", is_class=True, folds=folds(), sha256="")


def task(official: Official = JDFT) -> Task:
    return dataclasses.replace(matbench_task(official), epochs=2, batch=8)


def examples(official: Official = JDFT) -> Examples:
    data = labelled(SIZE, METAL if official.is_class else matbench_task(official).target)
    return Examples(data.frames, data.values, KEYS, {}, {})


def run(folder: Path, given: Examples | None = None, official: Official = JDFT, **options: Any) -> list[FoldRun]:
    given = examples(official) if given is None else given
    options = {"wanted": range(5), "device": CPU, **options}
    return run_folds(task(official), official, given, SETTING, small_potential(), folder, **options)


# --- tasks and sides


def test_training_is_that_of_the_recipe_and_measures_those_of_the_papers_tables() -> None:
    layered, metals = matbench_task(JDFT), matbench_task(METALS)
    assert (layered.epochs, layered.batch, metals.epochs, metals.batch) == (100, 32, 10, 32)
    assert [m.key for m in layered.measures] == ["mae", "std", "rmse", "max_error"]
    assert layered.paper is not None
    assert layered.paper.results["unfrozen"] == (48.346, 14.418, 112.694, 1536.159)
    assert metals.paper is not None
    assert metals.paper.results["scratch"] == (0.911, 0.002, 0.809, 0.835)
    assert metals.target.is_class


def test_a_task_without_a_recipe() -> None:
    cells = matbench_task(dataclasses.replace(JDFT, name="matbench_perovskites", column="e_form"))
    assert (cells.target.kind, cells.target.unit, cells.epochs, cells.paper) == ("extensive", "eV/unit cell", 100, None)
    gaps = matbench_task(dataclasses.replace(JDFT, name="matbench_mp_gap", column="gap pbe"))
    assert (gaps.target.kind, gaps.target.unit, gaps.epochs) == ("intensive", "eV", 10)


def test_a_tenth_of_the_training_structures_validates() -> None:
    given = examples()
    for fold in JDFT.folds:
        part = fold_examples(given, fold)
        named = {side: [KEYS[i] for i in indices] for side, indices in part.sides.items()}
        assert tuple(named["test"]) == fold.test
        assert set(named["train"]) | set(named["valid"]) == set(fold.train)
        assert len(named["train"]) + len(named["valid"]) == len(fold.train)
        assert len(named["valid"]) == round(0.1 * len(fold.train))
        assert [KEYS[i] for i in fold_examples(given, fold).sides["train"]] == named["train"]


def with_element(given: Examples, places: list[int], number: int) -> Examples:
    numbers = given.frames.numbers.copy()
    for i in places:
        numbers[given.frames.offsets[i]] = number
    return dataclasses.replace(given, frames=dataclasses.replace(given.frames, numbers=numbers))


def test_a_rare_element_is_trained_on() -> None:
    given, fold = examples(), JDFT.folds[0]
    chosen = int(fold_examples(given, fold).sides["valid"][0])
    part = fold_examples(with_element(given, [chosen], 8), fold)
    assert chosen in part.sides["train"]
    assert chosen not in part.sides["valid"]


def test_elements_that_the_model_has_never_seen(tmp_path: Path) -> None:
    fold = JDFT.folds[0]
    learnt, tested = KEYS.index(fold.train[0]), KEYS.index(fold.test[0])
    given = with_element(examples(), [learnt, tested], 84)
    known = known_elements(small_potential())
    assert not known[83]
    assert known[28]
    part = fold_examples(given, fold, known)
    assert learnt not in np.concatenate([part.sides["train"], part.sides["valid"]])
    assert tested in part.sides["test"]
    [outcome] = run(tmp_path, given, wanted=[0])
    assert (outcome.unknown, outcome.unseen) == (1, 1)
    assert np.isfinite(outcome.answers.predictions).all()
    notes = " ".join(notes_of(task(), [SettingRuns(SETTING, [outcome])], published=True))
    assert "1 structures per fold were not trained on" in notes
    assert "1 test structures of all folds have an element" in notes


# --- runs


def test_done_folds_are_not_repeated_and_a_stopped_run_goes_on(tmp_path: Path) -> None:
    told: list[int] = []

    def stop_at_two(fold: int, setting: Setting) -> None:
        told.append(fold)
        if fold == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, told=stop_at_two)
    assert [r.fold for r in run(tmp_path, wanted=[1], told=lambda n, s: told.append(n))] == [0, 1]
    assert told == [0, 1, 2]
    found = run(tmp_path, told=lambda n, s: told.append(n))
    assert told == [0, 1, 2, 2, 3, 4]
    assert [r.fold for r in found] == [0, 1, 2, 3, 4]
    again = run(tmp_path, told=lambda n, s: told.append(n))
    assert len(told) == 6
    for one, two, fold in zip(found, again, JDFT.folds, strict=True):
        np.testing.assert_array_equal(one.answers.predictions, two.answers.predictions)
        true = examples().values[[KEYS.index(key) for key in fold.test]]
        assert one.outcome.metrics["mae"] == pytest.approx(np.abs(one.answers.predictions - true).mean(), rel=1e-12)
    with pytest.raises(ValueError, match="other data, settings or another model"):
        run_folds(
            dataclasses.replace(task(), epochs=3),
            JDFT,
            examples(),
            SETTING,
            small_potential(),
            tmp_path,
            wanted=[0],
            device=CPU,
        )


def test_what_is_true_of_test_structures_plays_no_part(tmp_path: Path) -> None:
    given = examples()
    tested = [KEYS.index(key) for key in JDFT.folds[3].test]
    values = given.values.copy()
    values[tested] += 1000.0
    [one] = run(tmp_path / "a", given, wanted=[3])
    [two] = run(tmp_path / "b", dataclasses.replace(given, values=values), wanted=[3])
    np.testing.assert_array_equal(one.answers.predictions, two.answers.predictions)
    assert two.outcome.metrics["mae"] > one.outcome.metrics["mae"] + 900


def test_classes_are_predicted_by_probabilities(tmp_path: Path) -> None:
    [found] = run(tmp_path, official=METALS, wanted=[0])
    assert ((found.answers.predictions > 0) & (found.answers.predictions < 1)).all()
    assert {"roc_auc", "f1", "accuracy"} <= set(found.outcome.metrics)
    notes = notes_of(task(METALS), [SettingRuns(SETTING, [found])], published=True)
    assert any("balanced accuracy" in note for note in notes)


def test_there_are_five_folds(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="folds are 0 to 4, got 5"):
        run(tmp_path, wanted=[5])


# --- reports


def test_tables_are_over_folds(tmp_path: Path) -> None:
    runs = run(tmp_path)
    maes = [r.outcome.metrics["mae"] for r in runs]
    found = over_folds(runs)
    assert found["mae"] == pytest.approx(np.mean(maes))
    assert found["std"] == pytest.approx(np.std(maes))
    assert found["max_error"] == max(r.outcome.metrics["max_error"] for r in runs)
    done = [SettingRuns(SETTING, runs, tmp_path / "results.json.gz")]
    [row] = rows_of(task(), done)
    assert row.means == (found["mae"], found["std"], found["rmse"], found["max_error"])
    assert row.paper == (48.346, 14.418, 112.694, 1536.159)
    assert "paper: std of MAE (meV/atom)" in columns_of(task())
    notes = notes_of(task(), done, published=False)
    page = write_matbench_report(task(), done, tmp_path, notes).read_text()
    assert "Table XIII" in page
    assert "do not submit" in page
    assert page.count("| unfrozen-seed0 |") == 5
    written = json.loads((tmp_path / "results.json").read_text())
    assert [one["metrics"]["mae"] for one in written["runs"][0]["folds"]] == maes


def test_a_part_of_the_folds_makes_no_record(tmp_path: Path) -> None:
    runs = run(tmp_path, wanted=[0, 4])
    done = recorded(JDFT, examples(), SETTING, runs, tmp_path, published=True)
    assert done.record is None
    assert not list(tmp_path.rglob("results.json.gz"))
    [row] = rows_of(task(), [done])
    assert row.name == "unfrozen, folds 0, 4 only"
    assert "the official record needs all" in notes_of(task(), [done], published=True)[-1]
    with pytest.raises(ValueError, match="a record has all 5 folds, got 2"):
        write_record(JDFT, {}, [r.answers for r in runs], {}, tmp_path / "x.json.gz")
    assert over_folds(runs[:1]).get("std") is None


# --- reading


def write_file(path: Path, values: list[Any]) -> Path:
    cells = [Structure(Lattice.cubic(3.6 + 0.01 * i), ["Cu"], [[0, 0, 0]]).as_dict() for i in range(len(values))]
    rows = [list(row) for row in zip(cells, values, strict=True)]
    with gzip.open(path, "wt") as file:
        json.dump({"index": list(range(len(rows))), "columns": ["structure", "exfoliation_en"], "data": rows}, file)
    return path


def test_all_structures_are_read(tmp_path: Path) -> None:
    values = [float(i) for i in range(SIZE)]
    path = write_file(tmp_path / "matbench_jdft2d.json.gz", values)
    for given in (path, tmp_path):
        found = read_all(task(), JDFT, given)
        assert found.keys == KEYS
        assert found.values.tolist() == values
        assert isinstance(found.frames, FrameSet)


def test_files_that_are_not_the_published_ones(tmp_path: Path) -> None:
    name = "matbench_jdft2d.json.gz"
    with pytest.raises(ValueError, match=r"expected the 30 structures .* got 29, .*; get the published file"):
        read_all(task(), JDFT, write_file(tmp_path / name, [1.0] * (SIZE - 1)))
    with pytest.raises(ValueError, match=r"mb-jdft2d-30 has no 'exfoliation_en'; a record needs all values"):
        read_all(task(), JDFT, write_file(tmp_path / name, [1.0] * (SIZE - 1) + [None]))
    with pytest.raises(ValueError, match=r"json.gz:29 cannot be read: .*\. A record needs all"):
        read_all(task(), JDFT, write_file(tmp_path / name, [1.0] * (SIZE - 1) + ["high"]))
    with pytest.raises(ValueError, match="keep its name"):
        read_all(task(), JDFT, write_file(tmp_path / "jdft2d.json.gz", [1.0] * SIZE))


# --- the package


def test_a_missing_package_says_how_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("matbench", "matbench.bench"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r'pip install --no-deps matbench && pip install "gfmpot\[matbench\]"'):
        official_task("jdft2d")


def test_tasks_on_compositions_are_refused() -> None:
    with pytest.raises(ValueError, match="no task 'steels' on structures; expected one of matbench_dielectric"):
        official_task("steels")
