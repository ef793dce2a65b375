"""QM9 as PyG keeps it: ``processed/data_v3.pt``, or the ``raw/qm9_v3.pt`` that it downloads where there is no RDKit.

Layout (``InMemoryDataset.save`` and ``datasets/qm9.py`` of torch_geometric 2.8): a tuple of tensors by name, of
slices by name, and of the graphs' class; molecule i has the rows ``slices[name][i]:slices[name][i + 1]``. Before
release 2.4 the first of them was a graph. The download is a list of dictionaries, one per molecule. ``y`` has energies
in eV in single precision. The molecules that failed the consistency check are not in it.

Pickles are loaded by torch with ``weights_only=True``: tensors and plain containers alone. PyG's own classes are
replaced by records.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gfmpot.data.frame import Rejected
from gfmpot.finetune.reader import Example
from gfmpot.finetune.readers._qm9 import UNITS, Form, Ints, example, of_free_atoms

COLUMNS = ("mu", "alpha", "homo", "lumo", "gap", "r2", "zpve", "u0", "u", "h", "g", "cv")
BOUND = tuple(f"{name}_atomization" for name in ("u0", "u", "h", "g"))
ALL = (*COLUMNS, *BOUND, "A", "B", "C")
"""Columns of ``y``."""

NEEDED = ("z", "pos", "y", "name")
CLASSES = ("data.Data", "data.DataEdgeAttr", "data.DataTensorAttr", "storage.GlobalStorage")
"""What PyG pickles in its files, below ``torch_geometric.data``."""


class Pyg(Form):
    """All of it is in memory."""

    def __init__(self, path: Path) -> None:
        """Load ``path``.

        Raises:
            ValueError: a file of another layout, with more than data in it, or cut off.
        """
        self.path = path
        fields = _fields(_loaded(path), path)
        self._z, self._positions, self._y = (fields[name].numpy() for name in ("z", "pos", "y"))
        self._offsets: Ints = fields["offsets"].numpy()
        if self._y.shape != (len(self._offsets) - 1, len(ALL)):
            raise ValueError(f"{path}: expected y with QM9's {len(ALL)} columns, got shape {self._y.shape}")
        self.indices = np.array([int(name.removeprefix("gdb_")) for name in fields["name"]], dtype=np.int64)

    def read(self, rows: Sequence[int]) -> Iterator[Example | Rejected]:
        """Energies are those of the atoms plus those of atomization, which has more digits than y's own."""
        for row in rows:
            atoms = slice(int(self._offsets[row]), int(self._offsets[row + 1]))
            numbers, positions = self._z[atoms].astype(np.int64), self._positions[atoms].astype(np.float64)
            values = dict(zip(ALL, map(float, self._y[row]), strict=True))
            try:
                energy = values["u0_atomization"] + of_free_atoms("u0", numbers)
                targets = {name: values[name] for name in UNITS}
                yield example(int(self.indices[row]), numbers, positions, energy, targets)
            except ValueError as error:
                yield Rejected(f"{self.path.name}:{row}", str(error))


class _Record:
    """Stands for a class of PyG: whatever was kept in one."""


def _loaded(path: Path) -> Any:
    stand_ins: list[Any] = [(_Record, f"torch_geometric.data.{name}") for name in CLASSES]
    try:
        with torch.serialization.safe_globals(stand_ins):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError) as error:
        raise ValueError(f"{path}: not a whole file of tensors as PyG saves it ({str(error)[:300]})") from error


def _fields(loaded: Any, path: Path) -> Mapping[str, Any]:
    """``NEEDED`` of all molecules together, and where each one's atoms begin."""
    if isinstance(loaded, list) and loaded and isinstance(loaded[0], dict):
        _check(loaded[0], path)
        joined = {name: torch.cat([item[name] for item in loaded]) for name in ("z", "pos", "y")}
        return {**joined, "name": [item["name"] for item in loaded], "offsets": _ends([len(m["z"]) for m in loaded])}
    if isinstance(loaded, tuple) and len(loaded) >= 2 and isinstance(loaded[1], dict):
        data = loaded[0] if isinstance(loaded[0], dict) else _mapping(loaded[0])
        _check(data, path)
        return {**{name: data[name] for name in NEEDED}, "offsets": loaded[1]["z"]}
    raise ValueError(f"{path}: expected PyG's tuple of tensors and slices or list of molecules, got {type(loaded)}")


def _mapping(graph: Any) -> Mapping[str, Any]:
    """The tensors of a graph, which was pickled with its storage in it."""
    storage = vars(graph).get("_store", graph)
    return dict(vars(storage).get("_mapping", {}))


def _check(data: Mapping[str, Any], path: Path) -> None:
    missing = [name for name in NEEDED if name not in data]
    if missing:
        raise ValueError(f"{path}: molecules of QM9 should have {', '.join(NEEDED)}; missing {', '.join(missing)}")


def _ends(counts: Sequence[int]) -> torch.Tensor:
    return torch.tensor([0, *counts]).cumsum(0)
