"""QM9 as its authors publish it: ``dsgdb9nsd.xyz.tar.bz2``, and the folder that it unpacks to.

Layout (readme.txt of https://doi.org/10.6084/m9.figshare.978904): number of atoms n; ``gdb``, index, A, B, C, mu,
alpha, homo, lumo, gap, r2, zpve, U0, U, H, G, Cv; n lines with symbol, coordinates in Å and charge; frequencies;
SMILES; InChI. Exponents may be written ``1.2*^-6``.
"""

from __future__ import annotations

import re
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, cast

import numpy as np

from gfmpot.data.frame import Rejected
from gfmpot.finetune.reader import Example
from gfmpot.finetune.readers._qm9 import PUBLISHED, Form, atomic_numbers, of_published

NAME = re.compile(r"dsgdb9nsd_(\d{6})\.xyz")
DAMAGE = (tarfile.TarError, OSError, EOFError, zlib.error)


class XyzFolder(Form):
    """``dsgdb9nsd_000001.xyz`` and so on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        found = [NAME.fullmatch(file.name) for file in path.iterdir()]
        self.indices = np.array(sorted(int(match[1]) for match in found if match), dtype=np.int64)

    def read(self, rows: Sequence[int]) -> Iterator[Example | Rejected]:
        """The files of those molecules."""
        for row in rows:
            name = f"dsgdb9nsd_{self.indices[row]:06d}.xyz"
            yield parsed((self.path / name).read_bytes(), f"{self.path.name}/{name}")


class XyzArchive(Form):
    """``dsgdb9nsd.xyz.tar.bz2``, which is decompressed once for the list of its files and once for what is read."""

    def __init__(self, path: Path) -> None:
        """Look through the archive.

        Raises:
            ValueError: not an archive of such files, or cut off.
        """
        self.path = path
        try:
            with tarfile.open(path) as archive:
                named = ((NAME.fullmatch(Path(member.name).name), member) for member in archive)
                found = [(int(match[1]), member.offset_data, member.size) for match, member in named if match]
        except DAMAGE as error:
            raise ValueError(f"{path}: not a whole tar archive ({error}); if it was downloaded, do so again") from error
        if not found:
            raise ValueError(f"{path}: expected files dsgdb9nsd_000001.xyz and so on in the archive, found none")
        self.indices, self._offsets, self._sizes = np.array(sorted(found, key=lambda item: item[1]), dtype=np.int64).T

    def read(self, rows: Sequence[int]) -> Iterator[Example | Rejected]:
        """The files of those molecules, in one pass."""
        with tarfile.open(self.path) as archive:
            file = cast(IO[bytes], archive.fileobj)  # decompressed
            for row in rows:
                file.seek(self._offsets[row])
                text = file.read(int(self._sizes[row]))
                yield parsed(text, f"{self.path.name}:dsgdb9nsd_{self.indices[row]:06d}.xyz")


def parsed(text: bytes, where: str) -> Example | Rejected:
    """The molecule in a file."""
    lines = text.decode(errors="replace").replace("*^", "e").split("\n")
    try:
        atoms, words = int(lines[0]), lines[1].split()
        if words[0] != "gdb" or len(words) != 5 + len(PUBLISHED):
            raise ValueError(f"expected 'gdb', an index and 15 numbers in the second line, got {lines[1][:60]!r}")
        if len(lines) < atoms + 2:
            raise ValueError(f"the file is cut off: it should have {atoms} atoms")
        rows = [line.split() for line in lines[2 : atoms + 2]]
        positions = np.array([row[1:4] for row in rows], dtype=np.float64).reshape(atoms, 3)
        numbers = atomic_numbers([row[0] for row in rows])
        values = dict(zip(PUBLISHED, map(float, words[5:]), strict=True))
        return of_published(int(words[1]), numbers, positions, values)
    except (ValueError, IndexError) as error:
        return Rejected(where, f"not a molecule of QM9: {error}")
