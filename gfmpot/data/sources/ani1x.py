"""ANI-1x: organic molecules of H, C, N, O from active learning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gfmpot.data.frame import Frame, Rejected
from gfmpot.data.source import Source, SourceInfo
from gfmpot.data.sources._hdf5 import conformations, few, open_hdf5
from gfmpot.data.sources._scale import Scale

NEEDED = ("atomic_numbers", "coordinates", "wb97x_dz.energy", "wb97x_dz.forces")
SCALE = Scale.of("Hartree", "Å")


class ANI1x(Source):
    """``ani1x-release.h5``; a record is a group, which holds all conformations of one sum formula.

    Only the level computed for all conformations, ``wb97x_dz``, is read; of its values some may be NaN.
    """

    info = SourceInfo(
        branch="ani1x-wb97x",
        title="ANI-1x",
        theory="ωB97X/6-31G(d), Gaussian 09",
        format="HDF5, one file",
        layout="Smith et al. (2020), Table 1, and dataloader.py of https://github.com/aiqm/ANI1x_datasets: "
        "formula/{atomic_numbers (n,), coordinates (c, n, 3), wb97x_dz.energy (c,), wb97x_dz.forces (c, n, 3), ...}",
        units="Hartree, Å, Hartree/Å",
        charge_spin="not in the file; neutral molecules, multiplicity left unspecified",
        licence="CC0-1.0",
        citation="Smith et al., Sci. Data 7, 134 (2020), doi:10.1038/s41597-020-0473-z; "
        "Smith et al., J. Chem. Phys. 148, 241733 (2018), doi:10.1063/1.5023802",
        url="https://doi.org/10.6084/m9.figshare.10047041",
        elements=("H", "C", "N", "O"),
        compounds="Organic molecules",
        paper_theory="DFT (ωB97x/6-31G(d))",
        paper_structures=4_956_005,
    )
    suffixes = (".h5", ".hdf5")

    def count(self, path: Path) -> int:
        """Number of sum formulas."""
        with open_hdf5(path) as file:
            return len(_formulas(file, path))

    def read(self, path: Path, start: int, stop: int) -> Iterator[Frame | Rejected]:
        """All conformations of each formula."""
        with open_hdf5(path) as file:
            for name in _formulas(file, path)[start:stop]:
                yield from conformations(file, name, NEEDED, path.name, SCALE)


def _formulas(file: Mapping[str, Any], path: Path) -> list[str]:
    names = sorted(file)
    first = file[names[0]] if names else {}
    missing = [key for key in NEEDED if not isinstance(first, Mapping) or key not in first]
    if missing:
        raise ValueError(
            f"{path}: expected the layout of ANI-1x, formula/{{{', '.join(NEEDED)}}}; at the top are {few(names)} and "
            f"the first has no {', '.join(missing)}"
        )
    return names
