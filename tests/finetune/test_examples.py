"""Reading, checking and splitting the data of a task."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from fine_tuning import GAP, TASK, metal, metals, written

from gfmpot.data.split import split_of_group
from gfmpot.finetune.examples import Examples, part_sizes, read_examples
from gfmpot.finetune.reader import build_reader
from gfmpot.finetune.task import Task


def examples(path: Path, task: Task = TASK, **options: object) -> Examples:
    return read_examples(task, build_reader(task.reader), path, **options)  # type: ignore[arg-type]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return written(tmp_path / "metals.xyz", metals(20))


def test_sides_are_disjoint_and_as_large_as_asked(file: Path) -> None:
    found = examples(file)
    assert {side: len(part) for side, part in found.sides.items()} == {"train": 12, "valid": 4, "test": 4}
    assert sorted(np.concatenate(list(found.sides.values()))) == list(range(20))
    assert found.values == pytest.approx(found.frames.energy)


def test_more_data_move_nobody_from_the_test_side_to_training(tmp_path: Path) -> None:
    """Draws do not depend on what else there is; borders may move, by the order of the draws alone."""
    few, many = (examples(written(tmp_path / f"{n}.xyz", metals(n))) for n in (10, 20))
    tested = {few.keys[i].split(":")[-1] for i in few.sides["test"]}
    assert tested
    draws = [i for side in ("test", "valid", "train") for i in many.sides[side].tolist()]  # type: ignore[index]
    ranks = {many.keys[i].split(":")[-1]: rank for rank, i in enumerate(draws)}
    assert ranks.keys() >= tested


def test_groups_stay_together_and_agree_with_pretraining(tmp_path: Path) -> None:
    frames = metals(40)
    for i, atoms in enumerate(frames):
        atoms.info["group"] = f"family{i // 4}"
    task = dataclasses.replace(TASK, split_by="group", split=(0.5, 0.25, 0.25))
    found = examples(written(tmp_path / "a.xyz", frames), task)
    sides = {side: set(found.frames.group[part]) for side, part in found.sides.items()}
    assert not sides["train"] & sides["test"]
    assert not sides["train"] & sides["valid"]
    for group in sides["train"]:  # what would be held out first in pretraining is held out here, too
        assert split_of_group(group, 0.0, 0.01) == "train"


def test_numbers_of_structures_and_a_limit(file: Path) -> None:
    task = dataclasses.replace(TASK, split=(5, 2, 3))
    assert [len(part) for part in examples(file, task).sides.values()] == [5, 2, 3]
    first, again = (examples(file, limit=9) for _ in range(2))
    assert len(first.keys) == 9
    assert first.sha256 == again.sha256 != examples(file).sha256


@pytest.mark.parametrize(
    ("split", "sizes"), [((0.7, 0.15, 0.15), (14, 3, 3)), ((0.5, 0.1, 0.1), (10, 2, 2)), ((4, 3, 2), (4, 3, 2))]
)
def test_part_sizes(split: tuple[float, float, float], sizes: tuple[int, int, int]) -> None:
    assert part_sizes(split, 20) == sizes


def test_splits_that_cannot_be(file: Path) -> None:
    with pytest.raises(ValueError, match="needs 40 structures, there are 20"):
        examples(file, dataclasses.replace(TASK, split=(20, 10, 10)))
    with pytest.raises(ValueError, match="shares that add up to at most 1, or numbers"):
        part_sizes((0.9, 0.9, 0.9), 20)


def test_rare_elements_are_trained_on(tmp_path: Path) -> None:
    frames = [metal("Cu", i) for i in range(30)]
    frames[3:5] = [metal("Al", 50), metal("Ag", 51)]
    found = examples(written(tmp_path / "rare.xyz", frames))
    trained = set(found.part("train").numbers.tolist())
    assert set(found.frames.numbers.tolist()) == trained


def test_a_target_that_is_not_there(file: Path) -> None:
    task = dataclasses.replace(GAP, target=dataclasses.replace(GAP.target, name="gpa"))
    with pytest.raises(ValueError, match=r"has no 'gpa'; did you mean 'gap'\?"):
        examples(file, task)


def test_a_target_that_is_not_finite(tmp_path: Path) -> None:
    frames = metals(20)
    frames[7].calc.results["energy"] = np.nan
    path = written(tmp_path / "nan.xyz", frames)
    with pytest.raises(ValueError, match=r"energy of .*7 is not finite, as of 1 of 20 structures; --skip-unlabelled"):
        examples(path)
    found = examples(path, skip_unlabelled=True)
    assert len(found.keys) == 19
    assert found.left_out == {"without the target": 1}


def test_labels_under_other_names(tmp_path: Path) -> None:
    frames = metals(6)
    for atoms in frames:
        atoms.info["REF_energy"] = atoms.calc.results["energy"]
        atoms.calc = None
    path = written(tmp_path / "ref.xyz", frames)
    with pytest.raises(ValueError, match=r"no structure has an energy; the first has .*REF_energy"):
        examples(path)
    task = dataclasses.replace(TASK, forces=False)
    found = read_examples(task, build_reader("structures", energy_key="REF_energy"), path)
    assert np.isfinite(found.values).all()


def test_structures_that_make_no_sense_are_left_out_and_counted(tmp_path: Path) -> None:
    frames = metals(20)
    frames[2].positions[1] = frames[2].positions[0]
    found = examples(written(tmp_path / "coincident.xyz", frames))
    assert found.left_out == {"cannot be read": 1}


def test_nothing_that_can_be_used(tmp_path: Path) -> None:
    frames = [Atoms("Cu2", positions=np.zeros((2, 3))) for _ in range(3)]
    for atoms in frames:
        atoms.info["energy"] = 0.0
    with pytest.raises(ValueError, match="no structure could be used, the first, "):
        examples(written(tmp_path / "bad.xyz", frames))


def test_forces_that_are_to_be_learnt_must_be_there(tmp_path: Path) -> None:
    frames = [bulk("Cu") for _ in range(5)]
    for atoms in frames:
        atoms.info["energy"] = -1.0
    with pytest.raises(ValueError, match="metals learns forces, and the data have none"):
        examples(written(tmp_path / "energies.xyz", frames))


def test_missing_data_say_where_they_are() -> None:
    task = dataclasses.replace(TASK, reader="qm9")
    with pytest.raises(FileNotFoundError, match="no QM9 data at nowhere"):
        examples(Path("nowhere"), task)


def test_the_first_training_structures_have_all_elements(tmp_path: Path) -> None:
    frames = [metal(symbol, i) for i, symbol in enumerate(["Cu"] * 20 + ["Al", "Ag", "Au", "Ni"] * 2)]
    found = examples(written(tmp_path / "five.xyz", frames))
    elements = set(found.part("train").numbers.tolist())
    assert len(elements) == 5
    assert set(found.part("train", 5).numbers.tolist()) == elements


@pytest.mark.parametrize("what", ["forces", "charge", "pbc", "group"])
def test_all_that_training_depends_on_is_in_the_fingerprint(tmp_path: Path, what: str) -> None:
    def sha256(frames: list[Atoms]) -> str:
        return examples(written(tmp_path / "a.xyz", frames)).sha256

    before, frames = sha256(metals(12)), metals(12)
    if what == "forces":
        frames[0].calc.results["forces"] = -frames[0].calc.results["forces"]
    elif what == "pbc":
        frames[0].pbc = (True, True, False)
    else:
        frames[0].info[what] = 1
    assert sha256(frames) != before
    assert sha256(metals(12)) == before
