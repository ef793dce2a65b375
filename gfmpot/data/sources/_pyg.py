"""LMDB files of pickled ``torch_geometric`` graphs, in which the older Open Catalyst datasets are published.

Layout (fairchem-core 1.x, ``fairchem/core/datasets/oc22_lmdb_dataset.py`` and ``lmdb_dataset.py``): keys "0", "1", ...
and usually "length"; a value is a pickled ``torch_geometric.data.Data`` with ``pos (n, 3), cell (1, 3, 3),
atomic_numbers (n,), force (n, 3), y, sid, fid`` and more, written with torch_geometric 1.x (attributes in
``__dict__``) or 2.x (in a storage).

A pickle can run any program. Here only the classes and functions that such graphs consist of are admitted, the graph
classes are replaced by plain records, and the tensors' own bytes are loaded by torch with ``weights_only=True``.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from gfmpot.data.frame import Floats, Frame
from gfmpot.data.sources._ase import floats, scalar
from gfmpot.data.sources._lmdb import Lmdb
from gfmpot.data.split import SplitName

Fields = dict[str, Any]


class PygLmdb:
    """The graphs in one file, by their number."""

    def __init__(self, path: Path) -> None:
        """Open ``path``.

        Raises:
            ImportError: the package ``lmdb`` is not installed.
            ValueError: not an LMDB file, truncated, or of another layout.
        """
        self._file = Lmdb.open(path)
        if self._file.get("nextid") is not None:
            raise ValueError(f"{path}: an ASE database; expected an LMDB of pickled torch_geometric graphs")
        self._size = self._file.entries() - (self._file.get("length") is not None)

    def __len__(self) -> int:
        return self._size

    def fields(self, index: int) -> Fields:
        """Attributes of graph ``index`` by their names; tensors are arrays.

        Raises:
            ValueError: missing, damaged, or more than data.
        """
        value = self._file.get(str(index))
        if value is None:
            raise ValueError("the record is missing from the file")
        try:
            graph = _DataUnpickler(io.BytesIO(value)).load()
        except Exception as error:  # damaged pickles raise anything, says the library's documentation
            raise ValueError(f"the record cannot be unpickled: {error}") from error
        if not isinstance(graph, _Record):
            raise ValueError(f"expected a torch_geometric graph, got {type(graph).__name__}")
        return {name: v.numpy() if isinstance(v, torch.Tensor) else v for name, v in graph.fields().items()}


def slab(fields: Fields, energy: str, group: str, split: SplitName | None) -> Frame:
    """A graph as a structure, periodic in three directions as plane-wave calculations are; single precision.

    Args:
        fields: attributes of the graph.
        energy: name of the attribute that holds the total energy in eV.
        group: what must stay on one side of a split.
        split: the publishers' side.

    Raises:
        ValueError: an attribute is missing or ill-formed.
    """
    numbers = floats(_field(fields, "atomic_numbers"), "atomic_numbers").reshape(-1).astype(np.int64)
    positions = floats(_field(fields, "pos"), "pos")
    forces = _forces(fields, positions.shape)
    if positions.shape != (len(numbers), 3) or forces.shape != positions.shape:
        raise ValueError(
            f"expected pos and force ({len(numbers)}, 3) for {len(numbers)} atomic numbers, "
            f"got {positions.shape} and {forces.shape}"
        )
    value = fields.get(energy)
    return Frame(
        numbers=numbers,
        positions=positions,
        energy=np.nan if value is None else scalar(value, energy),
        forces=forces,
        group=group,
        cell=floats(_field(fields, "cell"), "cell").reshape(3, 3),
        pbc=np.ones(3, dtype=bool),
        split=split,
    )


def system_id(fields: Fields) -> int:
    """The number of the system that a frame is of.

    Raises:
        ValueError: there is none.
    """
    return int(scalar(_field(fields, "sid"), "sid"))


def _forces(fields: Fields, shape: tuple[int, ...]) -> Floats:
    for name in ("force", "forces"):
        if fields.get(name) is not None:
            return floats(fields[name], name)
    return np.full(shape, np.nan)


def _field(fields: Fields, name: str) -> Any:
    if fields.get(name) is None:
        raise ValueError(f"the graph has no {name}; it has {', '.join(sorted(fields))}")
    return fields[name]


class _Record:
    """Stands for any class of torch_geometric; keeps the state and runs nothing."""

    def fields(self) -> Fields:
        state = vars(self)
        store = state.get("_store")
        found = vars(store).get("_mapping", {}) if isinstance(store, _Record) else state
        return {str(name): value for name, value in found.items() if value is not None}


def _tensor_bytes(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), weights_only=True)


# What numpy's own pickles call, whatever this release of numpy keeps it under.
_SCALAR, _ARRAY = np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0]

_ADMITTED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch.storage", "_load_from_bytes"): _tensor_bytes,
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
    **{(f"numpy.{core}.multiarray", "scalar"): _SCALAR for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _ARRAY for core in ("core", "_core")},
}


class _DataUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "torch_geometric":
            return _Record
        if (module, name) in _ADMITTED:
            return _ADMITTED[module, name]
        raise pickle.UnpicklingError(f"it calls {module}.{name}, which no graph of a dataset needs; it was not run")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise pickle.UnpicklingError("it refers to data outside the file")
