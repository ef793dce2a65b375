"""Open Catalyst 2022: oxide surfaces, clean and with adsorbates."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from gfmpot.data.frame import Frame, Rejected
from gfmpot.data.source import Source, SourceInfo
from gfmpot.data.sources._folders import split_of_folder
from gfmpot.data.sources._pyg import Fields, PygLmdb, slab, system_id
from gfmpot.data.sources._trajectory import count_frames, read_trajectory
from gfmpot.data.split import SplitName

SPLITS: dict[str, SplitName] = {"train": "train", "val_id|val_ood": "valid", "test_id|test_ood": "test"}
LISTS: dict[str, SplitName] = {
    "train_s2ef_t.txt": "train",
    "val_id_s2ef_t.txt": "valid",
    "val_ood_s2ef_t.txt": "valid",
}


class OC22(Source):
    """S2EF-Total LMDBs of pickled graphs (read without running them), or the relaxations ``raw_trajs/*.traj``.

    A record is a frame. Choose one of the two forms: a system has another name, hence another group, in each.
    """

    info = SourceInfo(
        branch="oc22-pbe-u",
        title="Open Catalyst 2022 (OC22)",
        theory="PBE and PBE+U, PAW, 500 eV, spin-polarised, VASP",
        format="LMDB of pickled torch_geometric graphs; ASE .traj for whole relaxations",
        layout="https://github.com/facebookresearch/fairchem, docs/catalysts/datasets/oc22.md and (fairchem-core 1.x) "
        "src/fairchem/core/datasets/oc22_lmdb_dataset.py; lists of trajectories train_s2ef_t.txt, val_*_s2ef_t.txt",
        units="eV (total; y), Å, eV/Å; the LMDBs are in single precision but for the energy",
        charge_spin="not in the files; neutral slabs, multiplicity left unspecified",
        licence="CC-BY-4.0",
        citation="Tran et al., ACS Catal. 13, 3066 (2023), doi:10.1021/acscatal.2c05426",
        url="https://github.com/facebookresearch/fairchem/blob/main/docs/catalysts/datasets/oc22.md",
        compounds="2D alloy slabs with catalysts",
        published_split="train, val_id, val_ood, and test_id, test_ood without labels: by folder, or by list for .traj",
        paper_theory="DFT (PBE(+U)/PAW)",
        paper_structures=8_366_325,
    )
    suffixes = (".lmdb", ".traj")

    def count(self, path: Path) -> int:
        """Number of frames."""
        return count_frames(path) if path.suffix == ".traj" else len(PygLmdb(path))

    def read(self, path: Path, start: int, stop: int) -> Iterator[Frame | Rejected]:
        """One frame per record; the group is the system (LMDB) or the trajectory."""
        if path.suffix == ".traj":
            yield from read_trajectory(path, start, stop, lambda _: path.stem, _listed_split(path))
            return
        file, split = PygLmdb(path), split_of_folder(path, SPLITS)
        for index in range(start, min(stop, len(file))):
            try:
                yield _frame(file.fields(index), split)
            except ValueError as error:
                yield Rejected(f"{path.name}:{index}", str(error))


def _frame(fields: Fields, split: SplitName | None) -> Frame:
    if "oc22" not in fields:
        raise ValueError("no field oc22: LMDBs of OC20 look alike but hold adsorption energies")
    return slab(fields, "y", f"oc22-{system_id(fields)}", split)


def _listed_split(path: Path) -> SplitName | None:
    """The side of a trajectory, from the lists beside the folder that it is in."""
    return _lists(path.parent.parent).get(path.name)


@lru_cache(maxsize=8)
def _lists(folder: Path) -> dict[str, SplitName]:
    present = [(folder / name, split) for name, split in LISTS.items() if (folder / name).exists()]
    return {line.strip(): split for file, split in present for line in file.read_text().splitlines()}
