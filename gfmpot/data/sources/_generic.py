"""What sources of general file formats share: they are told units and names that the files do not state."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gfmpot.data.frame import Frame, Rejected
from gfmpot.data.source import Source, SourceInfo
from gfmpot.data.sources._ase import Labels, frame_or_rejected
from gfmpot.data.sources._scale import Scale

if TYPE_CHECKING:
    from ase import Atoms


@dataclass(frozen=True)
class GenericSource(Source):
    """A file format that says nothing of units; unless named, forces are in energy per length, and so on."""

    energy_unit: str = "eV"
    length_unit: str = "Å"
    force_unit: str = ""
    stress_unit: str = ""

    def __post_init__(self) -> None:
        self.scale()

    def scale(self) -> Scale:
        """The units as factors.

        Raises:
            ValueError: no such unit.
        """
        return Scale.of(self.energy_unit, self.length_unit, self.force_unit, self.stress_unit)


@dataclass(frozen=True)
class AtomsSource(GenericSource):
    """A format that ASE reads, with the names of the labels and of what groups frames."""

    energy_key: str = "energy"
    forces_key: str = "forces"
    stress_key: str = "stress"

    group_by: str = "group"
    """Key in ``atoms.info`` whose value is the group, or "formula", or "file"; a frame without it is its own group."""

    def frame(self, atoms: Atoms, path: Path, index: int) -> Frame | Rejected:
        """The frame of record ``index`` of the file."""
        labels = Labels(self.energy_key, self.forces_key, self.stress_key)
        group = self._group(atoms, path.stem, index)
        return frame_or_rejected(atoms, group, f"{path.name}:{index}", labels=labels, scale=self.scale())

    def _group(self, atoms: Atoms, file: str, index: int) -> str:
        if self.group_by in atoms.info:
            return str(atoms.info[self.group_by])
        if self.group_by == "formula":
            return str(atoms.get_chemical_formula("hill"))
        return file if self.group_by == "file" else f"{file}:{index}"


def generic_info(title: str, format: str, layout: str, charge_spin: str) -> SourceInfo:
    """Description of a format; what belongs to the data is empty and comes from whoever converts them."""
    return SourceInfo(
        branch="",
        title=title,
        theory="",
        format=format,
        layout=layout,
        units="eV and Å unless the options energy_unit, length_unit, force_unit and stress_unit say otherwise",
        charge_spin=charge_spin,
        licence="",
        citation="",
        url="",
    )
