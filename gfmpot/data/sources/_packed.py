"""The packed layout of ``docs/data.md``, in whatever container its arrays are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gfmpot.data.frame import Floats, Frame, Rejected
from gfmpot.data.sources._ase import voigt
from gfmpot.data.sources._scale import Scale

NEEDED = ("natoms", "numbers", "positions", "energy")
PER_ATOM = {"numbers": (), "positions": (3,), "forces": (3,)}
PER_STRUCTURE = {"energy": (), "stress": (6,), "cell": (3, 3), "pbc": (3,), "charge": (), "spin": (), "group": ()}


class Packed:
    """S structures; only slices of the arrays are read.

    Args:
        arrays: arrays by name, e.g. an ``h5py.File``.
        name: what begins the group of a structure without one.
        where: the file, for messages.
        needed: arrays that must be there; without an energy, structures are not labelled.

    Raises:
        ValueError: a needed array is missing, or arrays disagree in length.
    """

    def __init__(self, arrays: Mapping[str, Any], name: str, where: str, needed: Sequence[str] = NEEDED) -> None:
        missing = [key for key in needed if key not in arrays]
        if missing:
            raise ValueError(
                f"{where}: missing {', '.join(missing)}; expected the packed layout of docs/data.md, where unknown "
                f"energies are NaN (a set of properties alone cannot train a potential)"
            )
        self.arrays, self.name, self.where = arrays, name, where
        counts = np.asarray(arrays["natoms"][()], dtype=np.int64)
        if counts.ndim != 1 or (counts < 1).any():
            raise ValueError(f"{where}: natoms should be one positive number per structure, got {counts}")
        self.offsets = np.concatenate([[0], np.cumsum(counts)])
        self._check_shapes(len(counts), int(counts.sum()))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def frames(self, start: int, stop: int, scale: Scale) -> Iterator[Frame | Rejected]:
        """Structures ``start`` to ``stop``.

        Raises:
            ValueError: a damaged file.
        """
        stop = min(stop, len(self))
        first, last = int(self.offsets[start]), int(self.offsets[stop])
        atoms = {key: self._part(key, first, last) for key in PER_ATOM if key in self.arrays}
        structures = {key: self._part(key, start, stop) for key in PER_STRUCTURE if key in self.arrays}
        labels = self.arrays["group_labels"][()] if "group_labels" in self.arrays else None
        for i in range(stop - start):
            span = slice(int(self.offsets[start + i]) - first, int(self.offsets[start + i + 1]) - first)
            one = {key: values[i] for key, values in structures.items()}
            one |= {key: values[span] for key, values in atoms.items()}
            try:
                yield _frame(one, self._group(one, labels, start + i), scale)
            except (ValueError, IndexError) as error:
                yield Rejected(f"{self.where}:{start + i}", str(error))

    def _part(self, key: str, start: int, stop: int) -> NDArray[Any]:
        try:
            return np.asarray(self.arrays[key][start:stop])
        except OSError as error:
            raise ValueError(f"{self.where}: {key} cannot be read from {start} to {stop}: {error}") from error

    def _group(self, one: Mapping[str, Any], labels: NDArray[Any] | None, index: int) -> str:
        if "group" not in one:
            return f"{self.name}:{index}"
        return _text(one["group"] if labels is None else labels[one["group"]])

    def _check_shapes(self, structures: int, atoms: int) -> None:
        for shapes, length in ((PER_ATOM, atoms), (PER_STRUCTURE, structures)):
            for key, rest in shapes.items():
                if key in self.arrays and self.arrays[key].shape != (length, *rest):
                    raise ValueError(
                        f"{self.where}: natoms makes {structures} structures of {atoms} atoms in all, so {key} should "
                        f"have shape {(length, *rest)}, got {self.arrays[key].shape}"
                    )


def _frame(one: Mapping[str, Any], group: str, scale: Scale) -> Frame:
    n = len(one["numbers"])
    return Frame(
        numbers=one["numbers"].astype(np.int64),
        positions=one["positions"].astype(np.float64) * scale.length,
        energy=float(one.get("energy", np.nan)) * scale.energy,
        forces=_or_nan(one, "forces", (n, 3)) * scale.force,
        group=group,
        cell=one["cell"].astype(np.float64) * scale.length if "cell" in one else np.zeros((3, 3)),
        pbc=one["pbc"].astype(bool) if "pbc" in one else np.zeros(3, dtype=bool),
        stress=voigt(_or_nan(one, "stress", (6,))) * scale.stress,
        charge=int(one.get("charge", 0)),
        spin=int(one.get("spin", 0)),
    )


def _or_nan(one: Mapping[str, Any], key: str, shape: tuple[int, ...]) -> Floats:
    return one[key].astype(np.float64) if key in one else np.full(shape, np.nan)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
