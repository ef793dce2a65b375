"""MD17 and rMD17: trajectories of small molecules with energies and forces."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.lib.npyio import NpzFile

from gfmpot.data.frame import Rejected
from gfmpot.data.sources._molecules import molecule
from gfmpot.data.sources._npz import DAMAGE, Arrays
from gfmpot.data.sources._scale import Scale
from gfmpot.finetune.reader import Example, Reader
from gfmpot.finetune.readers._packed import PackedExamples

Set = Literal["", "original", "revised"]

ORIGINAL = {"numbers": "z", "positions": "R", "energy": "E", "forces": "F"}
REVISED = {"numbers": "nuclear_charges", "positions": "coords", "energy": "energies", "forces": "forces"}
BOTH = {**REVISED, "energy": "old_energies", "forces": "old_forces"}
UNITS = ("e_unit", "r_unit")


@dataclass(frozen=True)
class MD17(Reader):
    """A file is a molecule, which is one group; ``labels`` chooses where a file has both sets of them."""

    title: ClassVar[str] = "MD17"
    forms: ClassVar[tuple[str, ...]] = (
        "MD17: NumPy .npz with z, R, E, F in kcal/mol and Å, unless e_unit and r_unit in it say otherwise (sGDML, PyG)",
        "rMD17: NumPy .npz with nuclear_charges, coords, energies, forces and old_energies, old_forces (figshare)",
        "NumPy .npz with the packed layout of docs/data.md; energy_rmd17 and forces_rmd17 are the revised labels",
    )
    where: ClassVar[str] = (
        "http://www.sgdml.org and https://doi.org/10.6084/m9.figshare.12672038 (revised); Chmiela et al., Sci. Adv. 3, "
        "e1603015 (2017), doi:10.1126/sciadv.1603015; Christensen and von Lilienfeld, Mach. Learn.: Sci. Technol. 1, "
        "045018 (2020), doi:10.1088/2632-2153/abba6f"
    )

    labels: Set = ""
    """``original`` (MD17, PBE+vdW-TS) or ``revised`` (rMD17, PBE/def2-SVP); unless said, what the file is named for."""

    def count(self, path: Path) -> int:
        """Number of frames."""
        found = self._file(self.single(path, "*.npz"))
        return len(found) if isinstance(found, PackedExamples) else len(found["energy"])

    def read(self, path: Path, indices: Sequence[int]) -> Iterator[Example | Rejected]:
        """The frames at ``indices``."""
        path = self.single(path, "*.npz")
        found = self._file(path)
        if isinstance(found, PackedExamples):
            yield from found.read(indices)
            return
        name, scale = re.sub(r"^r?md17_", "", path.stem), _scale(found, path)
        for i in indices:
            xyz, energy, forces = (found[key][i] for key in ("positions", "energy", "forces"))
            where = f"{path.name}:{i}"
            frame = molecule(where, found["numbers"], xyz, energy, forces, group=name, scale=scale)
            yield frame if isinstance(frame, Rejected) else Example(frame, f"{name}:{i}")

    def _file(self, path: Path) -> PackedExamples | Mapping[str, Any]:
        names = _names(path)
        if "natoms" in names:
            return PackedExamples(path, suffix="_rmd17" if self.labels == "revised" else "")
        layout = BOTH if self.labels == "original" and "nuclear_charges" in names else REVISED
        if "z" in names:
            layout = ORIGINAL
        if "z" in names and self.labels == "revised":
            raise ValueError(f"{path} has the labels of MD17, not the revised ones: rMD17's files have")
        return _trajectory(path, layout, names)


def _trajectory(path: Path, layout: Mapping[str, str], names: Sequence[str]) -> Mapping[str, Any]:
    """Arrays by what they are: of c frames, ``energy (c,)``, and ``positions`` and ``forces (c, n, 3)``."""
    missing = [name for name in layout.values() if name not in names]
    if missing:
        raise ValueError(
            f"{path}: missing {', '.join(missing)}; expected the arrays {', '.join(ORIGINAL.values())} of MD17 or "
            f"{', '.join(REVISED.values())} of rMD17, got {', '.join(names)}"
        )
    arrays = _arrays(path, (*layout.values(), *(name for name in UNITS if name in names)))
    found = {key: arrays[name] for key, name in layout.items()}
    frames, atoms = len(found["positions"]), len(found["numbers"])
    if found["energy"].size != frames or any(found[k].shape != (frames, atoms, 3) for k in ("positions", "forces")):
        shapes = ", ".join(f"{name} {arrays[name].shape}" for name in layout.values())
        raise ValueError(f"{path}: expected c energies, and coordinates and forces (c, n, 3), got {shapes}")
    return {**found, "energy": found["energy"].reshape(frames), **{name: arrays.get(name) for name in UNITS}}


def _scale(found: Mapping[str, Any], path: Path) -> Scale:
    energy, length = ("" if found[name] is None else str(found[name]) for name in UNITS)
    try:
        return Scale.of(energy or "kcal/mol", length or "Å")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _names(path: Path) -> list[str]:
    with _opened(path) as file:
        return list(file.files)


def _arrays(path: Path, names: Sequence[str]) -> Arrays:
    state = path.stat()
    return _loaded(path, tuple(names), state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=1)
def _loaded(path: Path, names: Sequence[str], size: int, modified: int) -> Arrays:
    """The named arrays alone: the others of MD17's files may be objects, which are not loaded."""
    with _opened(path) as file:
        return {name: file[name] for name in names}


@contextmanager
def _opened(path: Path) -> Iterator[NpzFile]:
    try:
        with path.open("rb") as raw:
            file = np.load(raw, allow_pickle=False)
            if not isinstance(file, NpzFile):
                raise ValueError("one array without a name")
            yield file
    except DAMAGE as error:
        raise ValueError(f"{path}: not a whole .npz of plain arrays ({error})") from error
