"""Open Catalyst 2020: adsorbates on metal and alloy surfaces."""

from __future__ import annotations

import lzma
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from gfmpot.data.frame import Frame, Rejected
from gfmpot.data.source import Source, SourceInfo
from gfmpot.data.sources._folders import split_of_folder
from gfmpot.data.sources._trajectory import count_frames, read_trajectory
from gfmpot.data.split import SplitName

SPLITS: dict[str, SplitName] = {
    r"(s2ef_|is2res_)?train(_.+)?": "train",
    r"(s2ef_|is2res_)?val_(id|ood_ads|ood_cat|ood_both)(_trajectories)?": "valid",
}


class OC20(Source):
    """S2EF shards ``<number>.extxyz.xz`` with ``<number>.txt.xz``; trajectories ``random<id>.extxyz.xz`` or ``.traj``.

    A record is a frame. The energy is the total energy that VASP gives; the reference energy in the ``.txt``, which
    would make an adsorption energy of it, is not subtracted. The published LMDBs hold adsorption energies, without
    forces (IS2RE) or without labels (test), and are therefore not read.
    """

    info = SourceInfo(
        branch="oc20-rpbe",
        title="Open Catalyst 2020 (OC20)",
        theory="RPBE, PAW, 350 eV, not spin-polarised, VASP",
        format="extended XYZ compressed with xz, with a list of systems; ASE .traj for whole relaxations",
        layout="https://github.com/facebookresearch/fairchem, docs/catalysts/datasets/oc20.md and "
        "src/fairchem/core/scripts/preprocess_ef.py: line i of N.txt is 'system_id,frame_number,reference_energy' of "
        "frame i of N.extxyz",
        units="eV (total), Å, eV/Å",
        charge_spin="not in the files; neutral slabs, multiplicity left unspecified",
        licence="CC-BY-4.0",
        citation="Chanussot et al., ACS Catal. 11, 6059 (2021), doi:10.1021/acscatal.0c04525",
        url="https://github.com/facebookresearch/fairchem/blob/main/docs/catalysts/datasets/oc20.md",
        compounds="2D alloy slabs with catalysts",
        published_split="train (200K, 2M, 20M, all) and val_id, val_ood_ads, val_ood_cat, val_ood_both by folder; "
        "rattled and MD data are on no side",
        paper_theory="DFT (RPBE/PAW)",
        paper_structures=134_933_884,
    )
    suffixes = (".extxyz.xz", ".extxyz", ".traj")

    def count(self, path: Path) -> int:
        """Number of frames, which must be that of lines in the list of systems, if there is one."""
        frames = count_frames(path)
        _systems(path, frames)
        return frames

    def read(self, path: Path, start: int, stop: int) -> Iterator[Frame | Rejected]:
        """One frame per record; the group is the system, e.g. ``random1000156``."""
        systems = _systems(path, count_frames(path))
        trajectory = path.name.split(".")[0]
        split = split_of_folder(path, SPLITS)
        yield from read_trajectory(path, start, stop, lambda i: systems[i] if systems else trajectory, split)


def _systems(path: Path, frames: int) -> tuple[str, ...]:
    """The system of every frame of a shard; empty for a trajectory, which is of the one that it is named after."""
    base = path.with_name(path.name.split(".")[0])
    found = [file for file in (base.with_suffix(".txt"), base.with_suffix(".txt.xz")) if file.exists()]
    if not found:
        if base.name.isdigit():
            raise ValueError(f"{path}: a shard of many systems needs its list {base.name}.txt or .txt.xz beside it")
        return ()
    systems = _listed(found[0], found[0].stat().st_mtime_ns)
    if len(systems) != frames:
        raise ValueError(f"{path} has {frames} frames, but {found[0].name} lists {len(systems)}")
    return systems


@lru_cache(maxsize=8)
def _listed(path: Path, modified: int) -> tuple[str, ...]:
    try:
        text = (lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()).decode()
    except (lzma.LZMAError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: damaged or cut off ({error})") from error
    return tuple(line.split(",")[0].strip() for line in text.splitlines() if line.strip())
