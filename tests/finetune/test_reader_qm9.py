"""QM9 in each of its published forms: methane, ammonia and water."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reader_samples import everything, examples, refused

from gfmpot.finetune.reader import Example, build_reader

READER = build_reader("qm9")

MOLECULES: dict[int, tuple[str, str, list[list[float]]]] = {
    1: (
        "CHHHH",
        "157.7118 157.70997 157.70699 0. 13.21 -0.3877 0.1171 0.5048 35.3641 0.044749 "
        "-40.47893 -40.476062 -40.475117 -40.498597 6.469",
        [
            [-0.0126981359, 1.0858041578, 0.0080009958],
            [0.002150416, -0.0060313176, 0.0019761204],
            [1.0117308433, 1.4637511618, 0.0002765748],
            [-0.540815069, 1.4475266138, -0.8766437152],
            [-0.5238136345, 1.4379326443, 0.9063972942],
        ],
    ),
    2: (
        "NHHH",
        "293.60975 293.54111 191.39397 1.6256 9.46 -0.257 0.0829 0.3399 26.1563 0.034358 "
        "-56.525887 -56.523026 -56.522082 -56.544961 6.316",
        [
            [-0.0404260543, 1.0241077531, 0.0625637998],
            [0.0172574639, 0.0125452063, -0.0273771593],
            [0.9157893661, 1.3587451948, -0.0287577581],
            [-0.5202777357, 1.3435321258, -0.7755426124],
        ],
    ),
    3: (
        "OHH",
        "799.58812 437.90386 282.94545 1.8511 6.31 -0.2928 0.0687 0.3615 19.0002 0.021375 "
        "-76.404702 -76.401867 -76.400922 -76.422349 6.002",
        [
            [-0.0343604951, 0.9775395708, 0.0076015923],
            [0.0647664923, 0.0205721989, 0.0015346341],
            [0.8717903737, 1.3007924048, 0.0000006933],
        ],
    ),
}
METHANE = {  # the row of methane in PyG's dataset, as published in eV
    **{"mu": 0.0, "alpha": 13.21, "homo": -10.5499, "lumo": 3.1865, "gap": 13.7363, "r2": 35.3641, "zpve": 1.2177},
    **{"u0_atomization": -17.1722, "u_atomization": -17.2868, "h_atomization": -17.3897, "g_atomization": -16.1519},
    "cv": 6.469,
}
FREE = (  # Hartree, of atoms: U0, U, H, G of the dataset's atomref.txt
    {"H": -0.500273, "C": -37.846772, "N": -54.583861, "O": -75.064579},
    {"H": -0.498857, "C": -37.845355, "N": -54.582445, "O": -75.063163},
    {"H": -0.497912, "C": -37.844411, "N": -54.581501, "O": -75.062219},
    {"H": -0.510927, "C": -37.861317, "N": -54.598897, "O": -75.079532},
)
NUMBERS = {"H": 1, "C": 6, "N": 7, "O": 8}


def xyz(index: int) -> str:
    symbols, values, positions = MOLECULES[index]
    places = ["\t".join(f"{x:.10g}" for x in row) for row in positions]
    atoms = [f"{symbol}\t{place}\t-0.1" for symbol, place in zip(symbols, places, strict=True)]
    tail = ["1341.307\t1341.3284", "C\tC\t", "InChI=1S/CH4/h1H4\tInChI=1S/CH4/h1H4", ""]
    lines = [str(len(symbols)), f"gdb {index}\t" + values.replace(" ", "\t") + "\t", *atoms, *tail]
    return "\n".join(lines).replace("6.933e-07", "6.933*^-7")


def write_folder(folder: Path) -> Path:
    for index in MOLECULES:
        (folder / f"dsgdb9nsd_{index:06d}.xyz").write_text(xyz(index))
    return folder


def write_archive(folder: Path) -> Path:
    files, path = folder / "files", folder / "dsgdb9nsd.xyz.tar.bz2"
    files.mkdir()
    write_folder(files)
    with tarfile.open(path, "w:bz2") as archive:
        for file in sorted(files.iterdir()):
            archive.add(file, file.name)
    return path


def write_sdf(folder: Path) -> Path:
    header = "mol_id,A,B,C,mu,alpha,homo,lumo,gap,r2,zpve,u0,u298,h298,g298,cv,u0_atom,u298_atom,h298_atom,g298_atom"
    blocks, rows = [], [header]
    for index, (symbols, values, positions) in MOLECULES.items():
        atoms = [
            "".join(f"{x:10.4f}" for x in row) + f" {s:<3} 0  0  0  0  0  0  0  0  0  0  0  0"
            for s, row in zip(symbols, positions, strict=True)
        ]
        counts = f"{len(symbols):3d}{len(symbols) - 1:3d}  0     0  0  0  0  0  0999 V2000"
        blocks += [f"gdb_{index}", " -OEChem-03231823243D", "", counts, *atoms, "  1  2  1  0", "M  END", "$$$$"]
        rows.append(f"gdb_{index}," + values.replace(" ", ",") + ",-395.9,-398.6,-401.0,-372.4")
    (folder / "gdb9.sdf").write_text("\n".join(blocks) + "\n")
    (folder / "gdb9.sdf.csv").write_text("\n".join(rows) + "\n")
    return folder / "gdb9.sdf"


def write_tables(folder: Path) -> Path:
    header = (
        "XYZ_file,Index,SMILES,InChi,N_atoms,Stoichiometry,Elements,XYZ_Ang,Mulliken_pop,Harmonic_Freq_cmi,RotA_GHz,"
        "RotB_GHz,RotC_GHz,Dipole_debye,Polarizability_bohr3,HOMO_au,LUMO_au,HOMO_LUMO_gap_au,R2_bohr2,ZPVE_au,"
        "InternalEnergy_0K_au,InternalEnergy_298K_au,Enthalphy_298K_au,GibbsFreeEnergy_298K_au,"
        "Heatcapacity_Cv_cal_mol_K"
    )
    for part, indices in ((1, [1, 2]), (2, [3]), (3, [])):
        rows = [header]
        for index in indices:
            symbols, values, positions = MOLECULES[index]
            elements, places = str(list(symbols)).replace(" ", ""), str(positions).replace(" ", "")
            name = f'"dsgdb9nsd_{index:06d}.xyz",{index},"C","InChI=1S/CH4/h1H4",{len(symbols)},"[4,1,0,0,0]"'
            rows.append(f'{name},"{elements}","{places}","[-0.5]","[1341.307]",{values.replace(" ", ",")}')
        (folder / f"qm9_part{part}.csv").write_text("\n".join(rows) + "\n")
    return folder


def graphs() -> list[Any]:
    return [graph(index) for index in MOLECULES]


def graph(index: int) -> Any:
    from torch_geometric.data import Data

    symbols, values, positions = MOLECULES[index]
    a, b, c, mu, alpha, homo, lumo, gap, r2, zpve, *energies, cv = map(float, values.split())
    bound = [e - sum(kind[s] for s in symbols) for e, kind in zip(energies, FREE, strict=True)]
    orbitals, totals, bound = ([x * 27.211386246 for x in v] for v in ([homo, lumo, gap], [zpve, *energies], bound))
    z = torch.tensor([NUMBERS[symbol] for symbol in symbols])
    return Data(
        **{"x": torch.rand(len(z), 11), "z": z, "pos": torch.tensor(positions), "smiles": "C"},
        **{"edge_index": torch.zeros(2, 4, dtype=torch.long), "edge_attr": torch.rand(4, 4)},
        **{"y": torch.tensor([[mu, alpha, *orbitals, r2, *totals, cv, *bound, a, b, c]])},
        **{"name": f"gdb_{index}", "idx": index - 1},
    )


def save(items: list[Any], path: Path) -> Path:
    from torch_geometric.data import InMemoryDataset

    InMemoryDataset.save(items, str(path))
    return path


def write_processed(folder: Path) -> Path:
    (folder / "processed").mkdir()
    return save(graphs(), folder / "processed" / "data_v3.pt").parents[1]


def write_old_processed(folder: Path) -> Path:
    from torch_geometric.data import InMemoryDataset

    torch.save(InMemoryDataset.collate(graphs()), folder / "data_v3.pt")
    return folder / "data_v3.pt"


def write_downloaded(folder: Path) -> Path:
    torch.save([graph.to_dict() for graph in graphs()], folder / "qm9_v3.pt")
    return folder / "qm9_v3.pt"


def write_packed_qm9(folder: Path, **changes: Any) -> Path:
    found = examples(everything(READER, write_folder(folder)))
    names = {name: name.replace("u0", "U0") for name in READER.targets}
    units = {f"target_{names[name]}": unit.lower() for name, unit in READER.targets.items()}
    arrays: dict[str, Any] = {
        "natoms": [len(e.frame.numbers) for e in found],
        "numbers": np.concatenate([e.frame.numbers for e in found]),
        "positions": np.concatenate([e.frame.positions for e in found]),
        "energy": [e.frame.energy for e in found],
        "qm9_index": list(MOLECULES),
        "meta": str({"target_units": units}).replace("'", '"'),
        **{f"target_{names[name]}": [e.targets[name] for e in found] for name in names},
    }
    np.savez(folder / "qm9.npz", **{name: value for name, value in {**arrays, **changes}.items() if value is not None})
    return folder / "qm9.npz"


pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # of torch_geometric

FORMS: list[Callable[[Path], Path]] = [
    write_folder,
    write_archive,
    write_sdf,
    write_tables,
    write_processed,
    write_old_processed,
    write_downloaded,
    write_packed_qm9,
]


def check_methane(example: Example) -> None:
    assert (example.key, example.frame.group) == ("gdb_1", "1")
    assert example.frame.numbers.tolist() == [6, 1, 1, 1, 1]
    np.testing.assert_allclose(example.frame.positions, MOLECULES[1][2], atol=5.1e-5)  # the SD file has four decimals
    assert example.frame.energy == pytest.approx(-1101.4878, abs=1e-4)
    assert np.isnan(example.frame.forces).all()
    assert not example.frame.pbc.any()
    assert list(example.targets) == list(READER.targets)


@pytest.mark.parametrize("write", FORMS)
def test_each_form(write: Callable[[Path], Path], tmp_path: Path) -> None:
    found = examples(everything(READER, write(tmp_path)))
    assert [e.key for e in found] == ["gdb_1", "gdb_2", "gdb_3"]
    check_methane(found[0])
    assert {name: pytest.approx(value, abs=1e-4) for name, value in found[0].targets.items()} == METHANE
    assert found[1].targets["mu"] == pytest.approx(1.6256)
    assert found[2].targets["zpve"] == pytest.approx(0.021375 * 27.2113862)
    assert found[2].frame.energy == pytest.approx(-76.404702 * 27.2113862, abs=2e-5)


def test_energies_of_atomization_are_exact(tmp_path: Path) -> None:
    water = examples(everything(READER, write_folder(tmp_path)))[2]
    for name, total, atoms in zip(("u0", "u", "h", "g"), MOLECULES[3][1].split()[10:14], FREE, strict=True):
        hartree = float(total) - atoms["O"] - 2 * atoms["H"]
        assert water.targets[f"{name}_atomization"] == pytest.approx(hartree * 27.211386245988, abs=1e-9)


def test_small_numbers_of_mathematica(tmp_path: Path) -> None:
    assert "*^" in (write_folder(tmp_path) / "dsgdb9nsd_000003.xyz").read_text()
    water = examples(everything(READER, tmp_path))[2]
    assert water.frame.positions[2, 2] == pytest.approx(6.933e-7)


def test_molecules_that_failed_the_consistency_check_are_left_out(tmp_path: Path) -> None:
    path = write_sdf(tmp_path)
    head = ["=" * 10, "", "Molecules that failed the consistency check", "", "Index GDB17 B3LYP Corina", ""]
    lines = [*head, "     2   N   [NH3]   N", "", "3054 compounds", ""]
    (tmp_path / "uncharacterized.txt").write_text("\n".join(lines))
    found = everything(READER, path)
    (left_out,) = refused(found)
    assert (left_out.where, left_out.reason) == ("gdb9.sdf:gdb_2", "listed in uncharacterized.txt")
    assert [e.key for e in found if isinstance(e, Example)] == ["gdb_1", "gdb_3"]
    (tmp_path / "uncharacterized.txt").write_text("moved\n")
    with pytest.raises(ValueError, match=r"uncharacterized.txt: expected lines with a number"):
        list(READER.read(path, [0]))


def test_a_folder_may_hold_any_form(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="Any of these is read"):
        READER.count(tmp_path)
    (tmp_path / "data").mkdir()
    write_tables(tmp_path / "data")
    assert READER.count(tmp_path) == 3
    (tmp_path / "raw").mkdir()
    write_sdf(tmp_path / "raw")
    assert READER.count(tmp_path / "raw") == READER.count(tmp_path / "raw" / "gdb9.sdf.csv") == 3
    with pytest.raises(ValueError, match="expected one of QM9's files"):
        READER.count(write_folder_file(tmp_path).rename(tmp_path / "readme.txt"))


# --- what is damaged


def test_broken_molecules_are_refused_with_the_reason(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "dsgdb9nsd_000001.xyz").write_text("\n".join(xyz(1).split("\n")[:5]))
    (tmp_path / "dsgdb9nsd_000002.xyz").write_text(xyz(2).replace("N\t", "Xx\t"))
    (tmp_path / "dsgdb9nsd_000003.xyz").write_text("3\nwater\nO 0 0 0\nH 1 0 0\nH 0 1 0\n")
    reasons = [item.reason for item in refused(everything(READER, tmp_path))]
    assert ["cut off" in reasons[0], "'Xx'" in reasons[1], "expected 'gdb'" in reasons[2]] == [True] * 3


def test_a_cut_archive(tmp_path: Path) -> None:
    path = write_archive(tmp_path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"tar.bz2: not a whole tar archive"):
        READER.count(path)
    with tarfile.open(path, "w:bz2") as archive:
        archive.add(write_folder_file(tmp_path), "other.xyz")
    with pytest.raises(ValueError, match=r"expected files dsgdb9nsd_000001.xyz .* found none"):
        READER.count(path)


def write_folder_file(folder: Path) -> Path:
    (folder / "other.xyz").write_text(xyz(1))
    return folder / "other.xyz"


def test_a_cut_sdf(tmp_path: Path) -> None:
    path = write_sdf(tmp_path)
    whole, table = path.read_text(), (tmp_path / "gdb9.sdf.csv").read_text()
    path.write_text(whole[:-30])
    with pytest.raises(ValueError, match="the last one does not: it is cut off"):
        READER.count(path)
    path.write_text(whole[: whole.index("gdb_3")])
    with pytest.raises(ValueError, match=r"has 2 molecules, gdb9.sdf.csv has 3"):
        READER.count(path)
    path.write_text(whole.replace("gdb_2", "gdb_7").replace("V2000", "V3000", 1))
    first, second = refused(everything(READER, path))
    assert "expected a V2000 block of 5 atoms" in first.reason
    assert "the table has gdb_2 in this row, the structure is 'gdb_7'" in second.reason
    path.write_text(whole)
    (tmp_path / "gdb9.sdf.csv").write_text(table.replace("u298,", "u300,", 1))
    touch(path)
    with pytest.raises(ValueError, match=r"gdb9.sdf.csv: missing columns u298; got"):
        READER.count(path)
    (tmp_path / "gdb9.sdf.csv").write_text(table[:-60])
    touch(path)
    with pytest.raises(ValueError, match="line 4 is damaged or cut off"):
        READER.count(path)
    (tmp_path / "gdb9.sdf.csv").unlink()
    touch(path)
    with pytest.raises(FileNotFoundError, match=r"gdb9.sdf and gdb9.sdf.csv are read together"):
        READER.count(path)


def touch(path: Path) -> None:
    """So that what was known of the file is not used again."""
    now = path.stat().st_mtime_ns + 1_000_000
    os.utime(path, ns=(now, now))


def test_a_cut_table(tmp_path: Path) -> None:
    path = write_tables(tmp_path) / "qm9_part1.csv"
    whole = path.read_text()
    path.write_text(whole[:-20])
    assert "not a molecule of QM9" in refused(everything(READER, path))[0].reason
    path.write_text(whole + '"dsgdb9nsd_00')
    with pytest.raises(ValueError, match=r"qm9_part1.csv: expected an index in the second column"):
        READER.count(path)
    path.write_text(whole.replace("HOMO_au", "HOMO_eV"))
    with pytest.raises(ValueError, match="missing HOMO_au"):
        READER.count(path)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("never",)


def test_pickles_of_more_than_data_are_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "data_v3.pt"
    torch.save(({"z": Evil()}, {}), path)
    with pytest.raises(ValueError, match=r"data_v3.pt: not a whole file of tensors as PyG saves it"):
        READER.count(path)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="expected PyG's tuple of tensors"):
        READER.count(path)
    few = graphs()
    for molecule in few:
        molecule.y = molecule.y[:, :3]
    save(few, path)
    with pytest.raises(ValueError, match=r"expected y with QM9's 19 columns, got shape \(3, 3\)"):
        READER.count(path)
    for molecule in few:
        del molecule.z, molecule.y
    save(few, path)
    with pytest.raises(ValueError, match="missing z, y"):
        READER.count(path)
    write_old_processed(tmp_path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ValueError, match="not a whole file of tensors"):
        READER.count(path)


def test_packed_columns_in_other_units(tmp_path: Path) -> None:
    path = write_packed_qm9(tmp_path, meta='{"target_units": "Hartree"}')
    with pytest.raises(ValueError, match="homo in Hartree"):
        READER.count(path)
    with pytest.raises(ValueError, match="got no index"):
        READER.count(write_packed_qm9(tmp_path, qm9_index=None))
    with pytest.raises(ValueError, match="cv in no column"):
        READER.count(write_packed_qm9(tmp_path, target_cv=None))


# --- real files


def test_real_table_and_packed_file_agree(reference: Callable[[str], Path]) -> None:
    table = examples(list(READER.read(reference("originals/qm9/qm9_part1_first300.csv"), range(300))))
    packed = examples(list(READER.read(reference("qm9.npz"), range(300))))
    check_methane(table[0])
    assert [e.key for e in table] == [e.key for e in packed]
    for one, other in zip(table, packed, strict=True):
        assert other.targets == {name: pytest.approx(value, rel=2e-7) for name, value in one.targets.items()}
        assert other.frame.energy == pytest.approx(one.frame.energy, abs=1e-3)
        np.testing.assert_allclose(one.frame.positions, other.frame.positions, atol=2e-5)
