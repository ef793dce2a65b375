"""CIF files by name, in folders and zip archives."""

from __future__ import annotations

import warnings
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from gfmpot.data.frame import Frame
from gfmpot.data.sources._pymatgen import crystal
from gfmpot.finetune.readers._compounds import grouped_by_formula

DAMAGE = (zipfile.BadZipFile, OSError, zlib.error, EOFError)


class Cifs:
    """All CIF files below a folder, also in the zip archives there, by their names without the suffix.

    Raises:
        ValueError: an archive that is cut off.
    """

    def __init__(self, folder: Path) -> None:
        self._files: Mapping[str, Path] = {file.stem: file for file in sorted(folder.rglob("*.cif"))}
        self._members: Mapping[str, tuple[zipfile.ZipFile, str]] = {
            Path(member).stem: (archive, member)
            for archive in map(_opened, sorted(folder.glob("*.zip")))  # kept open: a directory of thousands is slow
            for member in archive.namelist()
            if member.endswith(".cif")
        }

    def __len__(self) -> int:
        return len(self._files) + len(self._members)

    def __contains__(self, name: str) -> bool:
        return name in self._files or name in self._members

    def frame(self, name: str) -> Frame:
        """The structure in a file, without labels.

        Raises:
            ValueError: no such file, not a CIF, or a disordered structure.
        """
        return parsed(self._text(name))

    def _text(self, name: str) -> str:
        if name in self._files:
            return self._files[name].read_text(errors="replace")
        if name not in self._members:
            raise ValueError(f"there is no {name}.cif beside the table, neither in a folder nor in a .zip")
        archive, member = self._members[name]
        try:
            return archive.read(member).decode(errors="replace")
        except DAMAGE as error:
            raise ValueError(f"{member} in {archive.filename} cannot be read: {error}") from error


def parsed(text: str) -> Frame:
    """The first structure of a CIF, in the cell that it is given in, grouped by reduced formula.

    Raises:
        ValueError: not a CIF, or a disordered structure.
    """
    from pymatgen.io.cif import CifParser

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on coordinates that were rounded, and symbols of groups
            structure = CifParser.from_str(text).parse_structures(primitive=False)[0]
    except Exception as error:  # the parser does not say what it raises on files that are none
        raise ValueError(f"not a CIF that pymatgen can read: {error!r}") from error
    return grouped_by_formula(crystal(structure.as_dict(), None, None, None, ""))


def _opened(archive: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(archive)
    except DAMAGE as error:
        raise ValueError(f"{archive}: not a whole zip archive ({error}); if it was downloaded, do so again") from error
