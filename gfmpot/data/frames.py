"""Labelled structures in memory, in the packed layout of one array per field."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from gfmpot.data.frame import Frame
from gfmpot.graph import AtomGraph, InvalidStructureError, build_graph
from gfmpot.graph.atom_graph import MAX_ATOMIC_NUMBER
from gfmpot.graph.build import charge_and_spin

if TYPE_CHECKING:
    from ase import Atoms

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class FrameSet:
    """S labelled structures with N atoms in all; structure ``i`` owns the atoms ``offsets[i]:offsets[i + 1]``.

    Missing labels are NaN; multiplicity 0 means unspecified.
    """

    name: str
    numbers: Ints  # (N,)
    positions: Floats  # (N, 3) Å
    offsets: Ints  # (S + 1,)
    energy: Floats  # (S,) eV
    forces: Floats  # (N, 3) eV/Å
    stress: Floats  # (S, 6) eV/Å³, ASE's Voigt order and sign
    cell: Floats  # (S, 3, 3) Å
    pbc: NDArray[np.bool_]  # (S, 3)
    charge: Ints  # (S,)
    spin: Ints  # (S,)
    group: NDArray[np.str_]  # (S,) what must stay on one side of a split
    sha256: str = ""

    def __len__(self) -> int:
        return len(self.energy)

    @property
    def atoms_per_structure(self) -> Ints:
        """(S,)."""
        return np.diff(self.offsets)

    def composition(self) -> Floats:
        """(S, 118) number of atoms of each element."""
        structure = np.repeat(np.arange(len(self)), self.atoms_per_structure)
        cells = np.bincount(structure * MAX_ATOMIC_NUMBER + self.numbers - 1, minlength=len(self) * MAX_ATOMIC_NUMBER)
        return cells.reshape(len(self), MAX_ATOMIC_NUMBER).astype(np.float64)

    def largest_force(self) -> Floats:
        """(S,) eV/Å, norm of the largest force; NaN without forces."""
        norms = np.linalg.norm(self.forces, axis=1)
        return np.maximum.reduceat(norms, self.offsets[:-1])

    def subset(self, indices: Sequence[int] | Ints) -> FrameSet:
        """The structures at ``indices``, in that order."""
        indices = np.asarray(indices, dtype=np.int64)
        spans = [np.arange(self.offsets[i], self.offsets[i + 1]) for i in indices]
        atoms = np.concatenate(spans) if spans else np.zeros(0, dtype=np.int64)
        per_structure: dict[str, Any] = {name: getattr(self, name)[indices] for name in _PER_STRUCTURE}
        per_atom: dict[str, Any] = {name: getattr(self, name)[atoms] for name in _PER_ATOM}
        return FrameSet(self.name, offsets=_offsets(self.atoms_per_structure[indices]), **per_structure, **per_atom)

    def graph(self, i: int, cutoff: float, branch: int = 0, max_neighbours: int | None = None) -> AtomGraph:
        """Structure ``i`` with its labels.

        Raises:
            InvalidStructureError: names the set and the index.
        """
        atoms = slice(self.offsets[i], self.offsets[i + 1])
        try:
            graph = build_graph(
                self.numbers[atoms],
                self.positions[atoms],
                self.cell[i],
                self.pbc[i],
                cutoff=cutoff,
                charge=int(self.charge[i]),
                spin=int(self.spin[i]) or None,
                max_neighbours=max_neighbours,
            )
        except InvalidStructureError as error:
            raise InvalidStructureError(f"{self.name}, structure {i}: {error}") from error
        return graph.replace(
            branch=torch.tensor([branch]),
            energy=torch.from_numpy(self.energy[i : i + 1]),
            forces=torch.from_numpy(self.forces[atoms]),
            stress=torch.from_numpy(self.stress[i : i + 1]),
        )

    def states(self) -> tuple[tuple[int, int], ...]:
        """Total charges and multiplicities that occur together; multiplicity 0 where none is stated."""
        return tuple(sorted(set(zip(self.charge.tolist(), self.spin.tolist(), strict=True))))

    def periodic_share(self) -> float | None:
        """Share of structures that are periodic in some direction; None of no structures."""
        return float(self.pbc.any(axis=1).mean()) if len(self) else None

    @classmethod
    def join(cls, name: str, sets: Sequence[FrameSet]) -> FrameSet:
        """Several sets as one."""
        counts = np.concatenate([s.atoms_per_structure for s in sets])
        names = (*_PER_ATOM, *_PER_STRUCTURE)
        fields: dict[str, Any] = {name: np.concatenate([getattr(s, name) for s in sets]) for name in names}
        return cls(name, offsets=_offsets(counts), **fields)

    @classmethod
    def from_frames(cls, frames: Sequence[Frame], name: str = "frames") -> FrameSet:
        """From single frames; there must be at least one."""
        per_atom: dict[str, Any] = {field: np.concatenate([getattr(f, field) for f in frames]) for field in _PER_ATOM}
        stacked: dict[str, Any] = {
            field: np.array([getattr(frame, field) for frame in frames]) for field in _PER_STRUCTURE
        }
        return cls(name, offsets=_offsets([len(frame.numbers) for frame in frames]), **per_atom, **stacked)

    @classmethod
    def from_atoms(cls, frames: Iterable[Atoms], name: str = "frames") -> FrameSet:
        """From ``ase.Atoms`` with results attached; ``info["group"]`` is the group, else every frame is its own."""
        rows = [_row(i, atoms) for i, atoms in enumerate(frames)]
        if not rows:
            raise ValueError(f"{name}: no structures")
        per_atom: dict[str, Any] = {field: np.concatenate([row[field] for row in rows]) for field in _PER_ATOM}
        per_structure: dict[str, Any] = {field: np.stack([row[field] for row in rows]) for field in _PER_STRUCTURE}
        return cls(name, offsets=_offsets([len(row["numbers"]) for row in rows]), **per_atom, **per_structure)

    @classmethod
    def from_npz(cls, path: str | Path) -> FrameSet:
        """From a packed ``.npz``: ``natoms``, ``numbers``, ``positions`` and whichever labels there are.

        Raises:
            ValueError: a needed array is missing, or arrays disagree in length.
        """
        path = Path(path)
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files if key in _IN_NPZ}
        missing = [key for key in ("natoms", "numbers", "positions", "energy") if key not in arrays]
        if missing:
            raise ValueError(f"{path}: missing {', '.join(missing)}; expected the packed layout of docs/data.md")
        size, atoms = len(arrays["natoms"]), int(arrays["natoms"].sum())
        if len(arrays["numbers"]) != atoms or len(arrays["energy"]) != size:
            raise ValueError(
                f"{path}: natoms sums to {atoms} in {size} structures, but {len(arrays['numbers'])} numbers"
            )
        group = arrays.get("group", np.arange(size))
        return cls(
            path.stem,
            numbers=arrays["numbers"].astype(np.int64),
            positions=arrays["positions"].astype(np.float64),
            offsets=_offsets(arrays["natoms"]),
            energy=arrays["energy"].astype(np.float64),
            forces=_or_nan(arrays, "forces", (atoms, 3)),
            stress=_or_nan(arrays, "stress", (size, 6)),
            cell=arrays.get("cell", np.zeros((size, 3, 3))).astype(np.float64),
            pbc=arrays.get("pbc", np.zeros((size, 3), dtype=bool)),
            charge=arrays.get("charge", np.zeros(size)).astype(np.int64),
            spin=arrays.get("spin", np.zeros(size)).astype(np.int64),
            group=np.asarray(arrays["group_labels"][group] if "group_labels" in arrays else group.astype(str)),
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        )


_PER_ATOM = ("numbers", "positions", "forces")
_PER_STRUCTURE = ("energy", "stress", "cell", "pbc", "charge", "spin", "group")
_IN_NPZ = (*_PER_ATOM, *_PER_STRUCTURE, "natoms", "group_labels")


def npz_metadata(path: str | Path) -> dict[str, Any]:
    """The JSON in a packed file's ``meta``: name, theory, licence, citation and more; empty if there is none."""
    try:
        file = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not a whole .npz of plain arrays ({error})") from error
    with file:
        loaded: dict[str, Any] = json.loads(str(file["meta"])) if "meta" in file.files else {}
    return loaded


def _offsets(counts: Sequence[int] | Ints) -> Ints:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _or_nan(arrays: dict[str, NDArray[Any]], name: str, shape: tuple[int, ...]) -> Floats:
    return arrays[name].astype(np.float64) if name in arrays else np.full(shape, np.nan)


def _row(index: int, atoms: Atoms) -> dict[str, Any]:
    results = atoms.calc.results if atoms.calc is not None else {}
    charge, spin = charge_and_spin(atoms)
    return {
        "numbers": atoms.numbers.astype(np.int64),
        "positions": atoms.positions.astype(np.float64),
        "forces": np.asarray(results.get("forces", np.full((len(atoms), 3), np.nan)), dtype=np.float64),
        "energy": np.float64(results.get("energy", np.nan)),
        "stress": np.asarray(results.get("stress", np.full(6, np.nan)), dtype=np.float64),
        "cell": atoms.cell.array.astype(np.float64),
        "pbc": atoms.pbc.copy(),
        "charge": np.int64(charge),
        "spin": np.int64(spin or 0),
        "group": np.str_(atoms.info.get("group", index)),
    }
