"""rMD17: revised labels for the MD17 trajectories of ten small molecules."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from gfmpot.data.frame import Frame, Rejected
from gfmpot.data.source import Source, SourceInfo
from gfmpot.data.sources._molecules import molecule
from gfmpot.data.sources._npz import Arrays, load_arrays
from gfmpot.data.sources._scale import Scale

NEEDED = ("nuclear_charges", "coords", "energies", "forces")
SCALE = Scale.of("kcal/mol", "Å")


class RMD17(Source):
    """``rmd17_<molecule>.npz``; a record is a frame, the group is the molecule."""

    info = SourceInfo(
        branch="rmd17-pbe",
        title="rMD17",
        theory="PBE/def2-SVP, ORCA",
        format="NumPy .npz, one file per molecule",
        layout="readme.txt of https://doi.org/10.6084/m9.figshare.12672038: nuclear_charges (n,), coords (c, n, 3), "
        "energies (c,), forces (c, n, 3), and old_* of MD17",
        units="kcal/mol, Å, kcal/mol/Å",
        charge_spin="not in the files; neutral singlets, multiplicity left unspecified",
        licence="CC0-1.0",
        citation="Christensen and von Lilienfeld, Mach. Learn.: Sci. Technol. 1, 045018 (2020), "
        "doi:10.1088/2632-2153/abba6f",
        url="https://doi.org/10.6084/m9.figshare.12672038",
        elements=("H", "C", "N", "O"),
        compounds="Organic molecules",
        published_split="lists of 1,000 frames (splits/index_train_01.csv), not used: one molecule is one group",
    )
    suffixes = (".npz",)

    def count(self, path: Path) -> int:
        """Number of frames."""
        return len(_load(path)["energies"])

    def read(self, path: Path, start: int, stop: int) -> Iterator[Frame | Rejected]:
        """The frames of the trajectory."""
        arrays = _load(path)
        group = "rmd17-" + re.sub(r"^rmd17_", "", path.stem)
        for i in range(start, min(stop, len(arrays["energies"]))):
            where = f"{path.name}:{i}"
            xyz, energy, forces = (arrays[key][i] for key in NEEDED[1:])
            yield molecule(where, arrays["nuclear_charges"], xyz, energy, forces, group=group, scale=SCALE)


def _load(path: Path) -> Arrays:
    arrays = load_arrays(path)
    missing = [key for key in NEEDED if key not in arrays]
    lengths = {key: len(arrays[key]) for key in NEEDED[1:] if key in arrays}
    if missing or len(set(lengths.values())) > 1:
        raise ValueError(
            f"{path}: expected the layout of rMD17, {', '.join(NEEDED)} of equally many frames; missing "
            f"{', '.join(missing) or 'none'}, lengths {lengths}"
        )
    return arrays
