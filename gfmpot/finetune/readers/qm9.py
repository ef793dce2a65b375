"""QM9: properties of 134 thousand small organic molecules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from gfmpot.data.frame import Rejected
from gfmpot.finetune.reader import Example, Reader
from gfmpot.finetune.readers._qm9 import UNITS, Form
from gfmpot.finetune.readers._qm9_packed import PackedForm
from gfmpot.finetune.readers._qm9_pyg import Pyg
from gfmpot.finetune.readers._qm9_sdf import Sdf
from gfmpot.finetune.readers._qm9_table import Tables
from gfmpot.finetune.readers._qm9_xyz import XyzArchive, XyzFolder

UNCHARACTERIZED = "uncharacterized.txt"
INSIDE = (
    "dsgdb9nsd.xyz.tar.bz2",
    "gdb9.sdf",
    "raw/gdb9.sdf",
    "processed/data_v3.pt",
    "data_v3.pt",
    "raw/qm9_v3.pt",
    "qm9_v3.pt",
    "qm9.npz",
)
"""What is looked for in a folder, after ``dsgdb9nsd_*.xyz`` and the tables of qm9pack."""


class QM9(Reader):
    """Energies are U0, targets of atomization are energies minus those of free atoms; a molecule is its own group.

    The molecules that failed the authors' consistency check are left out if the list of them lies beside the data.
    """

    title = "QM9"
    forms = (
        "dsgdb9nsd.xyz.tar.bz2, or a folder of dsgdb9nsd_*.xyz (figshare)",
        "gdb9.sdf with gdb9.sdf.csv beside it (DeepChem, PyG)",
        "data_v3.pt or qm9_v3.pt (PyG)",
        "qm9_part1.csv to qm9_part3.csv or their folder (package qm9pack on PyPI, folder qm9pack/data)",
        "NumPy .npz with the packed layout of docs/data.md, qm9_index and columns target_mu to target_g_atomization",
        f"beside any of them: {UNCHARACTERIZED} (figshare), the list of molecules to be left out",
    )
    where = (
        "https://doi.org/10.6084/m9.figshare.c.978904; Ramakrishnan et al., Sci. Data 1, 140022 (2014), "
        "doi:10.1038/sdata.2014.22"
    )
    targets = UNITS

    def count(self, path: Path) -> int:
        """Number of molecules, with those that failed the consistency check if they are in the data."""
        return len(self._form(path).indices)

    def read(self, path: Path, indices: Sequence[int]) -> Iterator[Example | Rejected]:
        """The molecules at ``indices`` of the file or folder."""
        form = self._form(path)
        unfit = _uncharacterized(form.path.parent if form.path.is_file() else form.path)
        fit = [i for i in indices if form.indices[i] not in unfit]
        found = form.read(fit)
        for i in indices:
            if form.indices[i] in unfit:
                yield Rejected(f"{form.path.name}:gdb_{form.indices[i]}", f"listed in {UNCHARACTERIZED}")
            else:
                yield next(found)

    def _form(self, path: Path) -> Form:
        chosen = self.existing(path)
        if path.is_dir():
            tables = (folder / "qm9_part1.csv" for folder in (path, path / "data"))
            xyz = path if any(path.glob("dsgdb9nsd_*.xyz")) else None
            inside = (path / name for name in INSIDE)
            candidates = [xyz, *(table.parent for table in tables if table.exists()), *inside]
            found = next((file for file in candidates if file is not None and file.exists()), None)
            if found is None:
                raise self.missing(path)
            chosen = found
        return _opened(chosen, *_state(chosen))


def _state(path: Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_size, state.st_mtime_ns


@lru_cache(maxsize=2)
def _opened(path: Path, size: int, modified: int) -> Form:
    """Cached for this state of the file, since some forms are looked through first."""
    if path.is_dir():
        tables = sorted(path.glob("qm9_part*.csv"))
        return Tables(path, tables) if tables else XyzFolder(path)
    if path.name.endswith((".sdf", ".sdf.csv")):
        structures = path.with_suffix("") if path.suffix == ".csv" else path
        table = structures.with_name(f"{structures.name}.csv")
        for file in (structures, table):
            if not file.exists():
                raise FileNotFoundError(f"no {file}: {structures.name} and {table.name} are read together")
        return Sdf(structures, table)
    if ".tar" in path.suffixes:
        return XyzArchive(path)
    if path.suffix == ".csv":
        return Tables(path, [path])
    if path.suffix == ".pt":
        return Pyg(path)
    if path.suffix == ".npz":
        return PackedForm(path)
    raise ValueError(f"{path}: expected one of QM9's files: {'; '.join(QM9.forms)}")


def _uncharacterized(folder: Path) -> frozenset[int]:
    """Numbers in GDB-9 of the molecules in the list, whose lines are a number and SMILES strings."""
    file = folder / UNCHARACTERIZED
    if not file.exists():
        return frozenset()
    rows = [line.split() for line in file.read_text(errors="replace").splitlines()]
    numbers = frozenset(int(row[0]) for row in rows if len(row) > 2 and row[0].isdigit())
    if not numbers:
        raise ValueError(f"{file}: expected lines with a number and SMILES strings, found none")
    return numbers
