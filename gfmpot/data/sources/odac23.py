"""Open DAC 2023: metal-organic frameworks with CO2 and H2O."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from gfmpot.data.frame import Frame, Rejected
from gfmpot.data.source import Source, SourceInfo
from gfmpot.data.sources._folders import split_of_folder
from gfmpot.data.sources._pyg import Fields, PygLmdb, slab
from gfmpot.data.sources._trajectory import count_frames, read_trajectory
from gfmpot.data.split import SplitName

SPLITS: dict[str, SplitName] = {r"(extxyz_)?train": "train", r"(extxyz_)?val": "valid", r"test(_id)?": "test"}


class ODAC23(Source):
    """Trajectories ``<system>.extxyz``, or S2EF LMDBs of pickled graphs (read without running them).

    A record is a frame. In the LMDBs ``raw_y`` is the total energy, which is read, and ``y`` the adsorption energy.
    """

    info = SourceInfo(
        branch="odac23-pbe-d3",
        title="Open Direct Air Capture 2023 (ODAC23)",
        theory="PBE-D3(BJ), PAW, 600 eV, spin-polarised, VASP",
        format="extended XYZ, one file per trajectory; LMDB of pickled torch_geometric graphs",
        layout="https://github.com/facebookresearch/fairchem, docs/dac/datasets/odac.md; graphs have pos, cell, "
        "atomic_numbers, force, raw_y, y, nco2, nh2o, name (e.g. AMILUE_0.08_0_w_CO2_2H2O_1), sid, fid",
        units="eV (total; raw_y), Å, eV/Å; the LMDBs are in single precision but for the energy",
        charge_spin="not in the files; neutral frameworks, multiplicity left unspecified",
        licence="CC-BY-4.0",
        citation="Sriram et al., ACS Cent. Sci. 10, 923 (2024), doi:10.1021/acscentsci.3c01629",
        url="https://github.com/facebookresearch/fairchem/blob/main/docs/dac/datasets/odac.md",
        compounds="Hybrid compounds",
        published_split="train and val by folder; test sets without labels",
        paper_theory="DFT PBE-D3(BJ)/PAW",
        paper_structures=36_710_860,
    )
    suffixes = (".extxyz", ".lmdb")

    def count(self, path: Path) -> int:
        """Number of frames."""
        return len(PygLmdb(path)) if path.suffix == ".lmdb" else count_frames(path)

    def read(self, path: Path, start: int, stop: int) -> Iterator[Frame | Rejected]:
        """One frame per record; the group is the framework, with and without defects and adsorbates."""
        split = split_of_folder(path, SPLITS)
        if path.suffix != ".lmdb":
            yield from read_trajectory(path, start, stop, lambda _: framework(path.stem), split)
            return
        file = PygLmdb(path)
        for index in range(start, min(stop, len(file))):
            try:
                yield _frame(file.fields(index), split)
            except ValueError as error:
                yield Rejected(f"{path.name}:{index}", str(error))


def framework(system: str) -> str:
    """The framework of a system: AMILUE of ``AMILUE_0.08_0_w_CO2_2H2O_1`` (8 % defects, first variant, adsorbates)."""
    return re.sub(r"_\d+\.\d+_\d+$", "", system.split("_w_")[0])


def _frame(fields: Fields, split: SplitName | None) -> Frame:
    if "raw_y" not in fields or "name" not in fields:
        raise ValueError(f"expected the fields raw_y and name of ODAC23, got {', '.join(sorted(fields))}")
    return slab(fields, "raw_y", framework(str(fields["name"])), split)
