"""Structures from files: whatever ASE reads, and pymatgen's JSON, CIF and POSCAR where ASE cannot."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gfmpot.config import similar_name

if TYPE_CHECKING:
    from ase import Atoms


@dataclass(frozen=True)
class Frame:
    """One structure and where it comes from."""

    file: Path
    index: int
    atoms: Atoms

    def __str__(self) -> str:
        return f"{self.file} frame {self.index}"


@dataclass(frozen=True)
class Failure:
    """Something that could not be read or computed."""

    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


def read_all(files: Iterable[Path]) -> Iterator[Frame | Failure]:
    """Every frame of every file; what cannot be read becomes a failure and the others are read nevertheless."""
    for file in files:
        yield from _read(file)


def read_last(file: Path) -> Atoms:
    """The last structure in a file.

    Raises:
        ValueError: it cannot be read, or there is none.
    """
    last = next(iter(deque(_read(file, "-1"), maxlen=1)), Failure(str(file), "holds no structure"))
    if isinstance(last, Failure):
        raise ValueError(str(last))
    return last.atoms


def _read(file: Path, index: str = ":") -> Iterator[Frame | Failure]:
    from ase.io import iread

    if not file.exists():
        yield Failure(str(file), f"no such file{similar_name(file)}")
        return
    if file.is_dir() and file.suffix != ".bundle":
        yield Failure(str(file), "is a folder; give files of structures, e.g. FOLDER/*")
        return
    count = 0
    try:
        for atoms in iread(str(file), index=index, do_not_split_by_at_sign=True):
            yield _checked(Frame(file, count, atoms))
            count += 1
    except Exception as error:  # every format of ASE's has its own ways to fail
        yield from _rescued(file, count, error)
    else:
        if count == 0:
            yield Failure(str(file), "holds no structure")


def _checked(frame: Frame) -> Frame | Failure:
    """ASE keeps one species of a disordered site and mentions the others in ``info`` only."""
    for sites in (frame.atoms.info.get("occupancy") or {}).values():
        if len(sites) > 1 or sum(sites.values()) < 1 - 1e-3:
            shares = ", ".join(f"{symbol} {share:g}" for symbol, share in sites.items())
            return Failure(str(frame), f"disordered, one site holds {shares}; order the structure first")
    return frame


def _rescued(file: Path, count: int, error: Exception) -> Iterator[Frame | Failure]:
    """What can still be had after ASE failed at frame ``count``."""
    if file.suffix in (".xyz", ".extxyz") and file.stat().st_size > 0:
        yield from _xyz_one_by_one(file, count)
    elif count == 0 and (read := _pymatgen_reader(file)):
        yield from _pymatgen_frames(file, read)
    elif count == 0:
        yield Failure(str(file), f"ASE cannot read it ({_reason(error)})")
    else:
        yield Failure(f"{file} frame {count}", f"{_reason(error)}; it and what follows is not read")


def _xyz_one_by_one(file: Path, start: int) -> Iterator[Frame | Failure]:
    """Frames of an XYZ file, each parsed alone, so that a bad one does not hide the others."""
    from ase.io import read

    with file.open() as lines:
        for index, header in enumerate(lines):
            if not header.strip():
                return  # ASE stops there, too
            if not header.strip().isdigit():
                yield Failure(
                    f"{file} frame {index}", f"expected a number of atoms, got {header.strip()!r}; the rest is not read"
                )
                return
            text = header + "".join(islice(lines, int(header) + 1))
            if index >= start:
                try:
                    yield _checked(Frame(file, index, read(StringIO(text), format="extxyz")))
                except Exception as error:  # see above
                    yield Failure(f"{file} frame {index}", _reason(error))


def _pymatgen_reader(file: Path) -> Callable[[], list[Any]] | None:
    """What reads a file with pymatgen, if its name looks like one of pymatgen's."""
    from pymatgen.core import Structure

    if file.suffix == ".json":
        return lambda: _from_json(json.loads(file.read_text()))
    if file.suffix in (".cif", ".vasp") or "POSCAR" in file.name or "CONTCAR" in file.name:
        return lambda: [Structure.from_file(file)]
    return None


def _from_json(document: Any) -> list[Any]:
    from pymatgen.core import Molecule, Structure

    kinds = {"Structure": Structure, "IStructure": Structure, "Molecule": Molecule, "IMolecule": Molecule}
    entries = document if isinstance(document, list) else [document]
    for entry in entries:
        if not isinstance(entry, dict) or entry.get("@class") not in kinds:
            raise ValueError("neither an ASE database nor a pymatgen Structure or Molecule, or a list of them")
    return [kinds[entry["@class"]].from_dict(entry) for entry in entries]


def _pymatgen_frames(file: Path, read: Callable[[], list[Any]]) -> Iterator[Frame | Failure]:
    from gfmpot.calculators.pymatgen import to_atoms

    try:
        structures = read()
    except Exception as error:  # parsers of many formats, as above
        yield Failure(str(file), f"neither ASE nor pymatgen can read it ({_reason(error)})")
        return
    for index, structure in enumerate(structures):
        try:
            yield Frame(file, index, to_atoms(structure))
        except ValueError as error:
            yield Failure(f"{file} frame {index}", str(error))


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}"
