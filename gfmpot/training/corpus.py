"""From files to what training needs: splits by group, supported elements, reference energies, branches."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers
from numpy.typing import NDArray

from gfmpot.data import AdiosStore, FrameSet, fit_reference_energies, split_of_group
from gfmpot.data.dataset import Dataset, Joined
from gfmpot.data.split import SplitName
from gfmpot.data.statistics import merged
from gfmpot.graph import AtomGraph
from gfmpot.models import BranchInfo, PotentialConfig

log = logging.getLogger(__name__)

Ints = NDArray[np.int64]
SPLITS: tuple[SplitName, ...] = ("train", "valid", "test")
BLOCK = 256
"""Structures read at a time where all of a split are wanted."""


@dataclass(frozen=True)
class BranchData:
    """One branch's data: stores (``*.bp``) or packed files (``*.npz``) of one level of theory."""

    files: tuple[str, ...]
    name: str = ""
    """``<dataset>-<theory>``; a store knows its own, as well as the next three."""

    theory: str = ""
    licence: str = ""
    citation: str = ""
    share: float = 1.0
    """Of each epoch, with ``sampling: {balance: shares}``."""

    max_force: float = 50.0
    """eV/Å; structures of packed files with a larger one are left out, and counted. Stores are filtered when made."""

    min_structures_per_element: int = 20
    """Rarer elements are unsupported; structures of packed files with them are left out, and counted."""


@dataclass(frozen=True)
class SplitConfig:
    """Fractions of groups held out."""

    valid: float = 0.05
    test: float = 0.05
    seed: int = 0


@dataclass(frozen=True)
class BranchCorpus:
    """One branch, ready to train on."""

    info: BranchInfo
    share: float
    splits: dict[SplitName, Dataset]
    left_out: dict[str, int]
    manifest: dict[str, str]
    """SHA-256 by file name."""

    weighed: Dataset | None = None
    """Training structures of the stores that have validation and test structures, too; None if that is all. Others may
    be of a kind that is to be learnt, but not to be weighed by, as crystals under pressure are."""

    def drawn_from(self, split: SplitName) -> Dataset:
        """The structures of a split that alignment, blend and estimates of errors are to go by."""
        return self.weighed if split == "train" and self.weighed is not None else self.splits[split]

    def graphs(
        self, split: SplitName, model: PotentialConfig, branch: int, limit: int | None = None
    ) -> Iterator[AtomGraph]:
        """Labelled graphs of a split; at most ``limit`` of them, evenly spread."""
        data = self.splits[split]
        return graphs_of(data, evenly(len(data), limit), model, branch)


def evenly(size: int, limit: int | None) -> Ints:
    """At most ``limit`` of ``size`` indices, evenly spread."""
    return np.linspace(0, size - 1, size if limit is None else min(limit, size)).astype(np.int64)


def graphs_of(data: Dataset, chosen: Ints, model: PotentialConfig, branch: int) -> Iterator[AtomGraph]:
    """The structures ``chosen`` as the model sees them, with their labels."""
    for start in range(0, len(chosen), BLOCK):
        frames = data.subset(chosen[start : start + BLOCK])
        for i in range(len(frames)):
            yield frames.graph(i, model.backbone.cutoff, branch, model.max_neighbours)


def read_branch(config: BranchData, paths: Sequence[Path], split: SplitConfig) -> BranchCorpus:
    """Open a branch's stores, or read, check, split and reference its packed files, which are at ``paths``.

    Raises:
        FileNotFoundError: a missing file, and where it was looked for.
        ValueError: a split that is empty, or files of both kinds, or of different theories.
    """
    stores = [path.suffix == ".bp" for path in paths]
    if not paths or any(stores) != all(stores):
        raise ValueError(
            f"branch {config.name}: expected either stores (.bp) or packed files (.npz), got {config.files}"
        )
    corpus = _from_stores(config, paths) if all(stores) else _from_packed(config, paths, split)
    for name, part in corpus.splits.items():
        if len(part) == 0:
            raise ValueError(f"branch {corpus.info.name}: the {name} split is empty; use more data or other fractions")
    sizes = ", ".join(f"{len(part)} {name}" for name, part in corpus.splits.items())
    lost = ", ".join(f"{count} ({reason})" for reason, count in corpus.left_out.items())
    log.info("%s: %s%s", corpus.info.name, sizes, f"; left out {lost}" if lost else "")
    return corpus


def _from_stores(config: BranchData, paths: Sequence[Path]) -> BranchCorpus:
    stores = [AdiosStore(path) for path in paths]
    first = stores[0].manifest
    for path, store in zip(paths, stores, strict=True):
        if store.manifest.theory != first.theory:
            raise ValueError(f"{path} is {store.manifest.theory}, {paths[0]} is {first.theory}: make them two branches")
    found = {split for store in stores for split in store.splits}
    if len(found) < len(SPLITS):
        raise ValueError(
            f"{', '.join(map(str, paths))}: only the splits {', '.join(s for s in SPLITS if s in found)}; training "
            f"needs {', '.join(SPLITS)}"
        )
    train = merged(store.statistics("train") for store in stores if "train" in store.splits)
    name = config.name or first.branch
    info = BranchInfo(
        name=name,
        theory=config.theory or first.theory,
        e0=train.references.fit(),
        scale=train.force_rms if train.with_forces else 1.0,
        licence=config.licence or first.licence,
        citation=config.citation or first.citation,
        n_structures=train.structures,
        states=train.states,
        periodic=train.periodic_share,
    )
    splits: dict[SplitName, Dataset] = {}
    for split in SPLITS:
        parts = [store.split(split) for store in stores if split in store.splits]
        splits[split] = _joined(name, parts)
    left_out: Counter[str] = sum((Counter(store.manifest.left_out) for store in stores), Counter())
    manifest = {file: store.manifest.sha256 for file, store in zip(config.files, stores, strict=True)}
    whole = [store.split("train") for store in stores if len(store.splits) == len(SPLITS)]
    weighed = None if len(whole) in (0, len(stores)) else _joined(name, whole)
    return BranchCorpus(info, config.share, splits, dict(left_out), manifest, weighed)


def _joined(name: str, parts: Sequence[Dataset]) -> Dataset:
    return parts[0] if len(parts) == 1 else Joined(name, parts)


def _from_packed(config: BranchData, paths: Sequence[Path], split: SplitConfig) -> BranchCorpus:
    if not config.name:
        raise ValueError(f"packed files do not name their branch: give one to {', '.join(config.files)}")
    sets = [_read(path) for path in paths]
    frames = FrameSet.join(config.name, sets)
    side = np.array([split_of_group(group, split.valid, split.test, split.seed) for group in frames.group])
    frames, side, left_out = _usable(frames, side, config.max_force)
    taught = side == "train"
    e0 = fit_reference_energies(
        frames.composition()[taught], frames.energy[taught], min_structures=config.min_structures_per_element
    )
    keep = ~_rare(frames, e0)
    if not keep.all():
        left_out["rare elements"] = int((~keep).sum())
    parts = {name: frames.subset(np.flatnonzero(keep & (side == name))) for name in SPLITS}
    train = parts["train"]
    info = BranchInfo(
        name=config.name,
        theory=config.theory,
        e0=e0,
        scale=_force_scale(train),
        licence=config.licence,
        citation=config.citation,
        n_structures=len(train),
        states=train.states(),
        periodic=train.periodic_share(),
    )
    manifest = {file: part.sha256 for file, part in zip(config.files, sets, strict=True)}
    return BranchCorpus(info, config.share, dict(parts), left_out, manifest)


def primary_branch(branches: Sequence[BranchInfo]) -> BranchInfo:
    """The branch whose scale is the common one: that of most elements, then of most structures."""
    return max(branches, key=lambda branch: (len(branch.e0), branch.n_structures))


def common_references(branches: Sequence[BranchInfo]) -> dict[str, float]:
    """Reference energies of the blend: the primary branch's, and for other elements those of the next largest."""
    primary = primary_branch(branches)
    table: dict[str, float] = {}
    for branch in sorted(branches, key=lambda b: (b is primary, len(b.e0), b.n_structures)):
        table |= branch.e0
    return {symbol: table[symbol] for symbol in sorted(table, key=lambda s: atomic_numbers[s])}


def _read(path: Path) -> FrameSet:
    if not path.is_file():
        raise FileNotFoundError(f"no data file {path}; expected a packed .npz (docs/data.md)")
    return FrameSet.from_npz(path)


def _usable(frames: FrameSet, side: np.ndarray, max_force: float) -> tuple[FrameSet, np.ndarray, dict[str, int]]:
    """Frames with an energy and without violent forces, their sides, and how many others there are."""
    violent = frames.largest_force() > max_force
    unlabelled = ~np.isfinite(frames.energy)
    kept = np.flatnonzero(~(violent | unlabelled))
    reasons = {f"force above {max_force:g} eV/Å": violent, "no energy": unlabelled}
    return frames.subset(kept), side[kept], {name: int(mask.sum()) for name, mask in reasons.items() if mask.any()}


def _rare(frames: FrameSet, e0: dict[str, float]) -> np.ndarray:
    """(S,) which structures have an element without reference energy."""
    composition = frames.composition()
    supported = np.zeros(composition.shape[1], dtype=bool)
    supported[[atomic_numbers[symbol] - 1 for symbol in e0]] = True
    return np.asarray((composition[:, ~supported] > 0).any(axis=1))


def _force_scale(frames: FrameSet) -> float:
    """eV, the root mean square force component times 1 Å; 1 without forces."""
    finite = frames.forces[np.isfinite(frames.forces)]
    return float(np.sqrt(np.mean(finite**2))) if len(finite) else 1.0
