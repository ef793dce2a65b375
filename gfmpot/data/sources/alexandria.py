"""Alexandria: hypothetical and known inorganic compounds, PBE."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gfmpot.data.frame import Frame, Rejected
from gfmpot.data.source import Source, SourceInfo
from gfmpot.data.sources._json_members import JsonMembers, beginning, json_members
from gfmpot.data.sources._pymatgen import crystal, reason

ENTRIES = re.compile(rb'\s*\{\s*"entries"\s*:\s*\[')
PATHS = re.compile(rb'\s*\{\s*("[^"]+"\s*:\s*\[|\})')
OTHER_FUNCTIONAL = re.compile(r"(?:^|[_-])(ps|pbesol|scan)(?:[_.-]|$)")


class Alexandria(Source):
    """Relaxed structures ``alexandria_*.json.bz2``, or relaxations ``geo_opt_paths/.../*.json.bz2``.

    A record is an entry (one frame) or a material (all steps of its relaxations). Energies are VASP's, without the
    MP2020 corrections that an entry states beside them. Files compressed with bzip2 can only be read forwards: reading
    their records in order is what they are fast at. Files of PBEsol and SCAN are refused: they are other branches.
    """

    info = SourceInfo(
        branch="alexandria-pbe",
        title="Alexandria Materials Database",
        theory="PBE and PBE+U (settings near the Materials Project's), PAW, VASP",
        format="JSON compressed with bzip2",
        layout="https://alexandria.icams.rub.de: {'entries': [pymatgen ComputedStructureEntry with site properties "
        "forces, and data {mat_id, stress, ...}]}; geo_opt_paths: {mat_id: [run]}, run {steps: [{structure, energy, "
        "forces, stress}], kpoints, ENMAX, ...}",
        units="eV (uncorrected), eV/Å, kbar in VASP's sign (positive under compression)",
        charge_spin="neutral cells; multiplicity left unspecified (total_mag is not read)",
        licence="CC-BY-4.0",
        citation="Schmidt et al., Adv. Mater. 35, 2210788 (2023), doi:10.1002/adma.202210788; Schmidt et al., "
        "Mater. Today Phys. 48, 101560 (2024), doi:10.1016/j.mtphys.2024.101560",
        url="https://alexandria.icams.rub.de",
        compounds="3D inorganic compounds",
        paper_theory="DFT (PBE0)",
        paper_structures=5_364_523,
    )
    suffixes = (".json.bz2", ".json")

    def is_file(self, path: Path) -> bool:
        """Leaves out ``convex_hull*.json.bz2``, which repeat entries of the other files."""
        return super().is_file(path) and not path.name.startswith("convex_hull")

    def count(self, path: Path) -> int:
        """Number of entries or materials; the file is decompressed once."""
        return len(_members(path)[0])

    def read(self, path: Path, start: int, stop: int) -> Iterator[Frame | Rejected]:
        """One frame per entry, or all steps of a material; the group is its ``mat_id``."""
        members, entries = _members(path)
        for index in range(start, min(stop, len(members))):
            where = f"{path.name}:{index}"
            try:
                if entries:
                    yield _entry(members.value(index))
                else:
                    yield from _steps(path.name, *members.item(index))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                yield Rejected(where, f"not as expected: {reason(error)}")


def _members(path: Path) -> tuple[JsonMembers, bool]:
    """The records, and whether they are entries."""
    other = next((m for name in (path.name, path.parent.name) if (m := OTHER_FUNCTIONAL.search(name.lower()))), None)
    if other:
        raise ValueError(f"{path}: a file of another functional ({other[1]}); this source is PBE, leave it out")
    head = beginning(path)
    if ENTRIES.match(head):
        return json_members(path, depth=2), True
    if PATHS.match(head):
        return json_members(path, depth=1), False
    raise ValueError(
        f"{path}: expected {{'entries': [...]}} or {{mat_id: [relaxation, ...]}}, it begins with {head[:40]!r}"
    )


def _entry(entry: Any) -> Frame:
    structure, data = entry["structure"], entry["data"]
    forces = [site["properties"]["forces"] for site in structure["sites"]]
    return crystal(structure, entry["energy"], forces, data.get("stress"), data["mat_id"])


def _steps(file: str, material: str, runs: Any) -> Iterator[Frame | Rejected]:
    for i, run in enumerate(runs):
        functional = run.get("functional", "PBE")
        for j, step in enumerate(run["steps"]):
            where = f"{file}:{material}/{i}/{j}"
            if functional.upper() != "PBE":
                yield Rejected(where, f"computed with {functional}; this source is PBE")
                continue
            try:
                yield crystal(step["structure"], step["energy"], step["forces"], step["stress"], material)
            except (ValueError, KeyError, TypeError) as error:
                yield Rejected(where, f"not as expected: {reason(error)}")
