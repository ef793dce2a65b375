"""OC20, OC22 and ODAC23, on files written in the published layouts and on real relaxations."""

import io
import lzma
import os
import pickle
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io import Trajectory, write

from gfmpot.data.frame import Frame, Rejected
from gfmpot.data.source import build_source

lmdb = pytest.importorskip("lmdb")


def read(name: str, path: Path, start: int = 0, stop: int | None = None, **options) -> list[Frame | Rejected]:
    source = build_source(name, **options)
    stop = source.count(path) if stop is None else stop
    return list(source.read(path, start, stop))


def write_lmdb(path: Path, values: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with lmdb.open(str(path), subdir=False, map_size=1 << 26) as file, file.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key.encode(), value)
    return path


# Pickled graphs


@pytest.fixture
def graph_class(monkeypatch):
    """Classes under the names of torch_geometric's, so that pickles refer to them."""
    for name in (
        "torch_geometric",
        "torch_geometric.data",
        "torch_geometric.data.data",
        "torch_geometric.data.storage",
    ):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    data, storage = sys.modules["torch_geometric.data.data"], sys.modules["torch_geometric.data.storage"]
    data.Data = type("Data", (), {"__module__": data.__name__})
    storage.GlobalStorage = type("GlobalStorage", (), {"__module__": storage.__name__})
    return data.Data, storage.GlobalStorage


def graph(classes, release: int, **fields) -> bytes:
    """A graph as torch_geometric 1.x or 2.x pickles it."""
    outer = classes[0]()
    if release == 1:
        outer.__dict__.update(fields | {"edge_index": None})
    else:
        outer._store = classes[1]()
        outer._store._mapping = fields
        outer._store._parent = outer
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # torch's, of its own storages
        return pickle.dumps(outer, protocol=-1)


def slab_fields(**more) -> dict:
    atoms = bulk("Cu", cubic=True)
    numbers, force = torch.tensor([29.0] * 4), torch.full((4, 3), 0.25)
    fields = {"pos": torch.tensor(atoms.positions, dtype=torch.float32), "atomic_numbers": numbers, "force": force}
    return fields | {"cell": torch.tensor(atoms.cell.array)[None], "y": -695.13171908, "sid": 11385, "fid": 146} | more


@pytest.mark.parametrize("release", [1, 2])
def test_oc22_graphs(tmp_path, graph_class, release):
    values = [graph(graph_class, release, **slab_fields(oc22=1)), graph(graph_class, release, **slab_fields())]
    values.append(graph(graph_class, release, **slab_fields(oc22=1, y=None, force=None, sid=torch.tensor([7]))))
    path = write_lmdb(tmp_path / "val_ood/data.0000.lmdb", {str(i): v for i, v in enumerate(values)} | {"length": b"3"})
    frame, other, unlabelled = read("oc22", path)
    assert (frame.energy, frame.group, frame.split) == (-695.13171908, "oc22-11385", "valid")
    assert frame.pbc.all()
    assert frame.problem() is None
    np.testing.assert_array_equal(frame.forces, 0.25)
    assert "adsorption energies" in other.reason
    assert unlabelled.group == "oc22-7"
    assert unlabelled.problem() == "neither energy nor forces"


class Harmful:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (Path.touch, (self.target,))


def test_pickles_run_nothing(tmp_path):
    buffer = io.BytesIO()
    torch.save(Harmful(tmp_path / "ran"), buffer, _use_new_zipfile_serialization=False)
    hidden = type("Hidden", (), {"__reduce__": lambda _: (torch.storage._load_from_bytes, (buffer.getvalue(),))})()
    values = {"0": pickle.dumps(Harmful(tmp_path / "ran")), "1": pickle.dumps(hidden), "2": b"junk", "4": b"", "5": b""}
    got = read("oc22", write_lmdb(tmp_path / "bad.lmdb", values))
    assert [type(r) for r in got] == [Rejected] * 5
    assert "was not run" in got[0].reason
    assert "missing" in got[3].reason
    assert not (tmp_path / "ran").exists()


def test_odac23_graphs_and_trajectories(tmp_path, graph_class):
    name = "AMILUE_0.08_0_w_CO2_2H2O_1"
    values = {"0": graph(graph_class, 2, **slab_fields(raw_y=-1750.6, name=name)), "1": graph(graph_class, 2, y=1.0)}
    frame, bad = read("odac23", write_lmdb(tmp_path / "train/0.lmdb", values))
    assert (frame.energy, frame.group, frame.split) == (-1750.6, "AMILUE", "train")
    assert "raw_y" in bad.reason
    path = tmp_path / "extxyz_val/ABEFUL_w_CO2_6.extxyz"
    write_slabs(path)
    assert [(f.energy, f.group, f.split) for f in read("odac23", path)] == [
        (float(-i), "ABEFUL", "valid") for i in (1, 2, 3)
    ]


# Trajectories


def slabs() -> list[Atoms]:
    """Three frames with a fixed atom, whose force is published all the same."""
    frames = []
    for i in (1, 2, 3):
        atoms = bulk("Cu", cubic=True)
        atoms.set_constraint(FixAtoms([0]))
        atoms.calc = SinglePointCalculator(
            atoms, energy=-float(i), free_energy=-i - 0.5, forces=np.full((4, 3), 0.1 * i)
        )
        frames.append(atoms)
    return frames


def write_slabs(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = path.with_suffix("") if path.suffix == ".xz" else path
    write(plain, slabs(), format="extxyz")
    if path.suffix == ".xz":
        path.write_bytes(lzma.compress(plain.read_bytes()))
        plain.unlink()
    return path


def test_oc20_shards(tmp_path):
    path = write_slabs(tmp_path / "s2ef_val_ood_ads/7.extxyz.xz")
    with pytest.raises(ValueError, match=r"needs its list 7\.txt"):
        build_source("oc20").count(path)
    systems = path.with_name("7.txt.xz")
    systems.write_bytes(lzma.compress(b"random11,frame0,-407.2\nrandom11,frame1,-407.2\nrandom12,frame59,-300.1\n"))
    frames = read("oc20", path)
    assert [(f.group, f.energy) for f in frames] == [("random11", -1.0), ("random11", -2.0), ("random12", -3.0)]
    assert all(f.split == "valid" and f.problem() is None for f in frames)
    np.testing.assert_allclose(frames[1].forces, 0.2)
    assert read("oc20", path, 2, 3)[0].group == "random12"
    systems.write_bytes(lzma.compress(b"random11,frame0,-407.2\n"))
    os.utime(systems, ns=(1, 1))
    with pytest.raises(ValueError, match=r"3 frames, but 7\.txt\.xz lists 1"):
        build_source("oc20").count(path)


def test_oc20_damaged_files(tmp_path):
    path = write_slabs(tmp_path / "random5.extxyz.xz")
    assert {f.group for f in read("oc20", path)} == {"random5"}
    text = lzma.decompress(path.read_bytes())
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(ValueError, match="damaged or cut off"):
        build_source("oc20").count(path)
    plain = tmp_path / "random6.extxyz"
    plain.write_bytes(text[:-250])
    with pytest.raises(ValueError, match="the file is cut off"):
        build_source("oc20").count(plain)
    plain.write_bytes(text.replace(b"-2.0", b"what", 1).replace(b"Cu ", b"Qq ", 1))
    assert [type(f) for f in read("oc20", plain)] == [Rejected, Rejected, Frame]
    traj = tmp_path / "random7.traj"
    traj.write_bytes(b"hello")
    with pytest.raises(ValueError, match="not a whole ASE trajectory"):
        build_source("oc20").count(traj)


def test_oc22_trajectories_are_on_the_side_that_a_list_says(tmp_path):
    for name in ("CrO2_mp-1_x.traj", "TiO2_mp-2_y.traj", "ZnO_mp-3_z.traj"):
        path = tmp_path / "oc22/raw_trajs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with Trajectory(path, "w") as trajectory:
            for atoms in slabs():
                trajectory.write(atoms)
    (tmp_path / "oc22/train_s2ef_t.txt").write_text("CrO2_mp-1_x.traj\n")
    (tmp_path / "oc22/val_ood_s2ef_t.txt").write_text("TiO2_mp-2_y.traj\n")
    found = [read("oc22", file)[2] for file in build_source("oc22").files([tmp_path])]
    assert [f.split for f in found] == ["train", "valid", None]
    assert [(f.group, f.energy) for f in found[:1]] == [("CrO2_mp-1_x", -3.0)]
    np.testing.assert_allclose(found[0].forces, 0.3)


def test_real_relaxations_of_oc20(reference):
    source = build_source("oc20")
    files = source.files([reference("originals/oc20")])
    assert (files[0].name, source.count(files[0])) == ("random1000156.traj", 36)
    for file in files:
        frames = read("oc20", file)
        assert all(f.problem() is None for f in frames)
        assert {f.group for f in frames} == {file.stem}
        # A relaxation goes downhill, and no net force acts on a slab, fixed atoms included.
        assert frames[-1].energy < frames[0].energy
        assert max(np.abs(f.forces.sum(axis=0)).max() for f in frames) < 1e-5
    first = read("oc20", files[0], 0, 1)[0]
    assert first.energy == pytest.approx(-67.0913157)
