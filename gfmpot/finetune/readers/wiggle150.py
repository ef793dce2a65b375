"""Wiggle150: strained conformers of three molecules."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from gfmpot.data.frame import Floats, Frame, Rejected
from gfmpot.data.sources.extxyz import scan
from gfmpot.finetune.reader import Example, Reader
from gfmpot.units import KCAL_PER_MOL

MOLECULES = {"ado": "adenosine", "bpn": "benzylpenicillin", "efa": "efavirenz"}
UNITS = {"relative_energy": "eV"}
COMMENT = re.compile(r"\s*(?P<key>(?P<molecule>[A-Za-z]+)_\d+)\s+(?P<energy>[-+]?\d+(\.\d*)?([eE][-+]?\d+)?)\s*")


class Wiggle150(Reader):
    """Energies are relative to the lowest of the molecule in the file; the group is the molecule."""

    title = "Wiggle150"
    forms = (
        "ct5c00015_si_003.xyz, or a folder with it or another single .xyz: frames whose comment is a name such as "
        "ado_00 and the DLPNO-CCSD(T)/CBS energy in kcal/mol (supporting information)",
    )
    where = (
        "https://doi.org/10.1021/acs.jctc.5c00015; Brew et al., Wiggle150: Benchmarking Density Functionals and Neural "
        "Network Potentials on Highly Strained Conformers, J. Chem. Theory Comput. (2025)"
    )
    targets = UNITS

    def count(self, path: Path) -> int:
        """Number of conformers."""
        return len(self._frames(path))

    def read(self, path: Path, indices: Sequence[int]) -> Iterator[Example | Rejected]:
        """The conformers at ``indices``."""
        frames = self._frames(path)
        lowest: dict[str, float] = {}
        for frame in frames:
            lowest[frame.molecule] = min(frame.energy, lowest.get(frame.molecule, np.inf))
        for i in indices:
            yield frames[i].example(lowest[frames[i].molecule])

    def _frames(self, path: Path) -> tuple[_Conformer, ...]:
        file = self.single(path, "*.xyz")
        state = file.stat()
        return _conformers(file, state.st_size, state.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class _Conformer:
    where: str
    key: str
    molecule: str
    energy: float  # kcal/mol
    lines: tuple[str, ...]

    def example(self, lowest: float) -> Example | Rejected:
        from ase.data import atomic_numbers

        try:
            rows = [line.split() for line in self.lines]
            numbers = np.array([atomic_numbers[row[0]] for row in rows], dtype=np.int64)
            positions: Floats = np.array([row[1:4] for row in rows], dtype=np.float64).reshape(len(rows), 3)
        except (ValueError, KeyError, IndexError) as error:
            return Rejected(self.where, f"expected lines of a symbol and three coordinates: {error!r}")
        energy, group = (self.energy - lowest) * KCAL_PER_MOL, MOLECULES.get(self.molecule, self.molecule)
        frame = Frame(numbers, positions, energy, np.full((len(rows), 3), np.nan), group)
        return Example(frame, self.key, {"relative_energy": energy})


@lru_cache(maxsize=1)
def _conformers(path: Path, size: int, modified: int) -> tuple[_Conformer, ...]:
    """All of a file in this state: the lowest energy is known only then."""
    frames, text = scan(path), path.read_bytes()
    if frames.problem:
        raise ValueError(frames.problem)
    spans = zip(frames.offsets[:-1], frames.offsets[1:], strict=True)
    return tuple(_conformer(text[begin:end].decode(errors="replace"), path, i) for i, (begin, end) in enumerate(spans))


def _conformer(text: str, path: Path, index: int) -> _Conformer:
    head, *rest = text.splitlines()
    comment = COMMENT.fullmatch(rest[0]) if rest else None
    if comment is None:
        raise ValueError(
            f"{path}: frame {index} should have a name and an energy in kcal/mol as its comment, such as "
            f"'ado_00 -603984.7', got {rest[0][:60] if rest else ''!r}"
        )
    if len(rest) - 1 < int(head):
        raise ValueError(f"{path}: the file is cut off: frame {index} has {len(rest) - 1} of {int(head)} atoms")
    energy = float(comment["energy"])
    return _Conformer(f"{path.name}:{index}", comment["key"], comment["molecule"], energy, tuple(rest[1:]))
