"""The contract of readers."""

from __future__ import annotations

from pathlib import Path

import pytest

from gfmpot.finetune.reader import available_readers, build_reader
from gfmpot.finetune.readers._parts import Parts, runs

DATASETS = ("qm9", "md17", "wiggle150", "ms25", "cif_table", "matbench")
GENERAL = ("packed", "structures")


def test_a_reader_is_a_file() -> None:
    assert available_readers() == sorted((*DATASETS, *GENERAL))
    with pytest.raises(ValueError, match="no reader 'qm8'; did you mean 'qm9'"):
        build_reader("qm8")


@pytest.mark.parametrize("name", [*DATASETS, *GENERAL])
def test_what_is_missing_is_said_with_where_to_get_it(name: str, tmp_path: Path) -> None:
    reader = build_reader(name)
    assert reader.title
    assert bool(reader.where) == (name in DATASETS)
    for call in (reader.count, reader.units if name not in DATASETS else reader.count):
        with pytest.raises(FileNotFoundError) as caught:
            call(tmp_path / "nothing")
        message = str(caught.value)
        assert f"no {reader.title} data at {tmp_path / 'nothing'}" in message
        assert all(form in message for form in reader.forms)
        assert reader.where in message
    with pytest.raises(FileNotFoundError):
        list(reader.read(tmp_path / "nothing", [0]))


def test_only_readers_with_settings_take_them() -> None:
    with pytest.raises(ValueError, match=r"'qm9' reads one published dataset.*takes no options, got energy_unit"):
        build_reader("qm9", energy_unit="eV")
    with pytest.raises(ValueError, match="unknown key 'energy_units'; did you mean 'energy_unit'"):
        build_reader("structures", energy_units="eV")
    with pytest.raises(ValueError, match="no unit of energy"):
        build_reader("structures", energy_unit="Bohr")
    with pytest.raises(ValueError, match="labels"):
        build_reader("md17", labels="newest")


def test_units_of_a_dataset_do_not_need_its_files(tmp_path: Path) -> None:
    assert build_reader("qm9").units(tmp_path)["u0_atomization"] == "eV"
    assert build_reader("wiggle150").units(tmp_path) == {"relative_energy": "eV"}
    assert build_reader("md17").units(tmp_path) == {}


def test_numbers_go_on_from_file_to_file() -> None:
    sizes = {Path("a"): 3, Path("b"): 0, Path("c"): 4}
    parts = Parts(list(sizes), sizes.__getitem__)
    assert len(parts) == 7
    assert list(parts.of([0, 2, 3, 6])) == [(Path("a"), [0, 2]), (Path("c"), [0, 3])]
    assert list(parts.of([])) == []
    assert list(runs([0, 1, 2, 5, 7, 8])) == [(0, 3), (5, 6), (7, 9)]
