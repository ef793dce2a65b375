"""From files to what training needs: splits by group, supported elements, reference energies, branches."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers

from gfmpot.data import FrameSet, fit_reference_energies, split_of_group
from gfmpot.data.split import SplitName
from gfmpot.graph import AtomGraph
from gfmpot.models import BranchInfo, PotentialConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BranchData:
    """One branch's data: files of one level of theory, and how much of each batch it gets."""

    name: str
    theory: str
    files: tuple[str, ...]
    share: float
    licence: str = ""
    citation: str = ""
    max_force: float = 50.0
    """eV/Å; structures with a larger one are left out, and counted."""

    min_structures_per_element: int = 20
    """Rarer elements are unsupported; structures with them are left out, and counted."""


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
    splits: dict[SplitName, FrameSet]
    left_out: dict[str, int]
    manifest: dict[str, str]
    """SHA-256 by file name."""

    def graph(self, split: SplitName, i: int, model: PotentialConfig, branch: int) -> AtomGraph:
        """Structure ``i`` of a split as the model sees it, with its labels."""
        return self.splits[split].graph(i, model.backbone.cutoff, branch, model.max_neighbours)

    def graphs(
        self, split: SplitName, model: PotentialConfig, branch: int, limit: int | None = None
    ) -> Iterator[AtomGraph]:
        """Labelled graphs of a split; at most ``limit`` of them, evenly spread."""
        frames = self.splits[split]
        chosen = np.arange(len(frames))
        if limit is not None and limit < len(frames):
            chosen = np.linspace(0, len(frames) - 1, limit).astype(np.int64)
        return (self.graph(split, int(i), model, branch) for i in chosen)


def read_branch(config: BranchData, folder: Path, split: SplitConfig) -> BranchCorpus:
    """Read, check, split and reference one branch.

    Raises:
        FileNotFoundError: a missing data file, and where it was looked for.
        ValueError: a split that is empty.
    """
    sets = [_read(folder / file) for file in config.files]
    frames = FrameSet.join(config.name, sets)
    side = np.array([split_of_group(group, split.valid, split.test, split.seed) for group in frames.group])
    e0 = fit_reference_energies(
        frames.composition()[side == "train"],
        frames.energy[side == "train"],
        min_structures=config.min_structures_per_element,
    )
    keep, left_out = _usable(frames, e0, config.max_force)
    names: tuple[SplitName, ...] = ("train", "valid", "test")
    splits: dict[SplitName, FrameSet] = {name: frames.subset(np.flatnonzero(keep & (side == name))) for name in names}
    for name, part in splits.items():
        if len(part) == 0:
            raise ValueError(f"branch {config.name}: the {name} split is empty; use more data or other fractions")
    train = splits["train"]
    info = BranchInfo(
        name=config.name,
        theory=config.theory,
        e0=e0,
        scale=_force_scale(train),
        licence=config.licence,
        citation=config.citation,
        n_structures=len(train),
        charges=tuple(sorted(set(train.charge.tolist()))),
    )
    log.info("%s: %s; left out %s", config.name, {name: len(part) for name, part in splits.items()}, left_out)
    manifest = {file: part.sha256 for file, part in zip(config.files, sets, strict=True)}
    return BranchCorpus(info, config.share, splits, left_out, manifest)


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


def _usable(frames: FrameSet, e0: dict[str, float], max_force: float) -> tuple[np.ndarray, dict[str, int]]:
    supported = np.zeros(frames.composition().shape[1], dtype=bool)
    supported[[atomic_numbers[symbol] - 1 for symbol in e0]] = True
    rare = (frames.composition()[:, ~supported] > 0).any(axis=1)
    violent = frames.largest_force() > max_force
    unlabelled = ~np.isfinite(frames.energy)
    reasons = {"rare elements": rare, f"force above {max_force:g} eV/Å": violent, "no energy": unlabelled}
    return ~(rare | violent | unlabelled), {name: int(mask.sum()) for name, mask in reasons.items() if mask.any()}


def _force_scale(frames: FrameSet) -> float:
    """eV, the root mean square force component times 1 Å; 1 without forces."""
    finite = frames.forces[np.isfinite(frames.forces)]
    return float(np.sqrt(np.mean(finite**2))) if len(finite) else 1.0


def without_spin(graph: AtomGraph) -> AtomGraph:
    """The graph with its multiplicity unspecified."""
    return dataclasses.replace(graph, spin=graph.spin * 0)
