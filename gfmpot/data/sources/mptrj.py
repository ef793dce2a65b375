"""MPtrj: relaxations of the Materials Project."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gfmpot.data.frame import Frame, Rejected
from gfmpot.data.source import Source, SourceInfo
from gfmpot.data.sources._json_members import JsonMembers, beginning, json_members
from gfmpot.data.sources._pymatgen import crystal

MATERIALS = re.compile(rb'\s*\{\s*("[^"]+"\s*:\s*\{|\})')


class MPtrj(Source):
    """``MPtrj_2022.9_full.json``, one object of 11 GB; a record is a material, which holds frames of its relaxations.

    The energy is ``uncorrected_total_energy``, that of VASP: forces are its gradient, and corrections of MP2020, which
    depend on composition and on whether a U was used, would put a step between frames of one branch that no geometry
    explains. ``corrected_total_energy`` and ``energy_per_atom`` (CHGNet's label) are corrected.
    """

    info = SourceInfo(
        branch="mptrj-pbe-u",
        title="Materials Project Trajectories (MPtrj)",
        theory="PBE and PBE+U (Materials Project settings), PAW, VASP",
        format="JSON, one file",
        layout="description of the file at https://doi.org/10.6084/m9.figshare.23713842: {mp-id: {frame-id: {structure "
        "(pymatgen), uncorrected_total_energy, corrected_total_energy, energy_per_atom, force, stress, magmom, ...}}}, "
        "frame-id = task_id-calc_id-ionic_step",
        units="eV (uncorrected_total_energy), eV/Å, kbar in VASP's sign (positive under compression)",
        charge_spin="not in the file; neutral cells, multiplicity left unspecified (magmom is per atom and not read)",
        licence="CC-BY-4.0",
        citation="Deng et al., Nat. Mach. Intell. 5, 1031 (2023), doi:10.1038/s42256-023-00716-3",
        url="https://doi.org/10.6084/m9.figshare.23713842",
        compounds="3D bulk alloys",
        paper_theory="DFT (PBE0)",
        paper_structures=1_580_395,
    )
    suffixes = (".json",)

    def count(self, path: Path) -> int:
        """Number of materials; the file is read through once."""
        return len(_materials(path))

    def read(self, path: Path, start: int, stop: int) -> Iterator[Frame | Rejected]:
        """All frames of each material; the group is its mp-id."""
        materials = _materials(path)
        for index in range(start, min(stop, len(materials))):
            try:
                name, frames = materials.item(index)
                found = list(frames.items())
            except (ValueError, AttributeError) as error:
                yield Rejected(f"{path.name}:{index}", f"expected mp-id: {{frame-id: frame}}, but {error}")
                continue
            for frame, values in found:
                yield _frame(f"{path.name}:{name}/{frame}", name, values)


def _materials(path: Path) -> JsonMembers:
    head = beginning(path)
    if not MATERIALS.match(head):
        raise ValueError(f"{path}: expected {{mp-id: {{frame-id: frame}}}}, it begins with {head[:40]!r}")
    return json_members(path, depth=1)


def _frame(where: str, material: str, values: Any) -> Frame | Rejected:
    try:
        missing = [key for key in ("structure", "uncorrected_total_energy", "force", "stress") if key not in values]
        if missing:
            raise ValueError(f"no {', '.join(missing)}; the frame has {', '.join(sorted(values))}")
        return crystal(
            values["structure"], values["uncorrected_total_energy"], values["force"], values["stress"], material
        )
    except (ValueError, TypeError) as error:
        return Rejected(where, str(error))
