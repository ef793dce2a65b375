"""MS25: a benchmark of potentials for surfaces, reactions, alloys and oxides."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from gfmpot.data.frame import Frame, Rejected
from gfmpot.data.source import build_source
from gfmpot.data.sources._trajectory import count_frames, read_trajectory
from gfmpot.data.split import SplitName
from gfmpot.finetune.reader import Example, Reader
from gfmpot.finetune.readers._parts import Parts, runs

SIDES: dict[str, SplitName] = {"train": "train", "val": "valid", "test": "test"}
SET = "set1"
GENERAL = {".extxyz": "extxyz", ".xyz": "extxyz", ".npz": "npz"}


class MS25(Reader):
    """A file or a system's folder; the group is the system, the side that of the publishers.

    Systems of VASP (MgO-2x2, MgO-4x4, Reaction, HEA, Zr-O) have energies and forces as ASE stores them, in eV. Frames
    that have an energy only under ``info["E"]``, whose unit is not published, are refused.
    """

    title = "MS25"
    forms = (
        "the folder of a system, e.g. MgO-2x2: ASE .traj files set1/train-1000.traj (or else train.traj), val.traj and "
        "test.traj, or all .traj in a folder without such (Zenodo)",
        "one .traj of it, e.g. set1/neb.traj",
        "extended XYZ with energy and forces (eV, eV/Å), or a packed .npz of docs/data.md, made from them",
    )
    where = (
        "https://doi.org/10.5281/zenodo.10901820; Maxson et al., MS25: Materials Science-Focused Benchmark Data Set "
        "for Machine Learning Interatomic Potentials, J. Chem. Inf. Model. (2025), doi:10.1021/acs.jcim.5c01262"
    )

    def count(self, path: Path) -> int:
        """Number of frames in the file or in all that are read of the folder."""
        return len(self._parts(path))

    def read(self, path: Path, indices: Sequence[int]) -> Iterator[Example | Rejected]:
        """The frames at ``indices``, numbered on from file to file: train, val, test."""
        system = _system(path)
        for file, inside in self._parts(path).of(indices):
            for start, stop in runs(inside):
                for i, frame in zip(range(start, stop), _frames(file, start, stop), strict=True):
                    key = f"{system}/{file.stem}:{i}"
                    yield _checked(frame, system, _side(file), key)

    def _parts(self, path: Path) -> Parts:
        files = _files(path) if self.existing(path).is_dir() else [path]
        if not files:
            raise self.missing(path)
        unknown = [file.name for file in files if file.suffix not in (".traj", *GENERAL)]
        if unknown:
            raise ValueError(f"{path}: expected .traj, {', '.join(GENERAL)}, got {', '.join(unknown)}")
        return Parts(files, _count)


def _files(folder: Path) -> list[Path]:
    inside = folder / SET if (folder / SET).is_dir() else folder
    train = next((inside / name for name in ("train-1000.traj", "train.traj") if (inside / name).exists()), None)
    if train is None:
        return sorted(inside.glob("*.traj"))
    return [train, *(inside / name for name in ("val.traj", "test.traj") if (inside / name).exists())]


def _system(path: Path) -> str:
    folder = path if path.is_dir() else path.parent
    return (folder.parent if folder.name == SET else folder).resolve().name


def _side(file: Path) -> SplitName | None:
    return SIDES.get(file.stem.split("-")[0])


def _count(file: Path) -> int:
    return count_frames(file) if file.suffix == ".traj" else build_source(GENERAL[file.suffix]).count(file)


def _frames(file: Path, start: int, stop: int) -> Iterator[Frame | Rejected]:
    if file.suffix == ".traj":
        return read_trajectory(file, start, stop, lambda index: "", None)
    return build_source(GENERAL[file.suffix]).read(file, start, stop)


def _checked(frame: Frame | Rejected, system: str, side: SplitName | None, key: str) -> Example | Rejected:
    if isinstance(frame, Rejected):
        return frame
    if np.isnan(frame.energy):
        return Rejected(key, "no energy among the results; that of info['E'], if any, is in a unit that is not stated")
    return Example(dataclasses.replace(frame, group=system, split=side), key)
