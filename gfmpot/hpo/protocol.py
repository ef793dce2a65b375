"""What is the same for all trials of a campaign, and the training runs that follow from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gfmpot.config import from_mapping, to_mapping
from gfmpot.hpo.settings import joined, nested
from gfmpot.hpo.space import SearchSpace, Values
from gfmpot.hpo.training import part_size
from gfmpot.models import PotentialConfig
from gfmpot.training.config import TrainConfig
from gfmpot.training.corpus import BranchData, read_branch
from gfmpot.training.loss import LossConfig

USUAL: Mapping[str, Any] = {"sampling": {"balance": "oversample"}}
"""Settings of trials that are not the defaults of a run (paper, section VII-A)."""

WARM = 20
"""The warm-up is at most a part of so many of a run: runs of trials are short."""


@dataclass(frozen=True)
class Protocol:
    """How a configuration is judged."""

    space: SearchSpace
    branches: tuple[BranchData, ...]
    """Files have absolute paths."""

    sizes: tuple[int, ...]
    """Structures of the training split of each branch."""

    fraction: float = 0.1
    epochs: int = 20
    seed: int = 0
    weights: tuple[float, ...] = LossConfig().weights
    """Of the errors in the validation loss."""

    device: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1 or self.epochs < 1:
            raise ValueError(
                f"expected a fraction above 0 up to 1 and at least one epoch, got {self.fraction}, {self.epochs}"
            )
        if len(self.weights) != 3 or min(self.weights) < 0 or max(self.weights) == 0:
            raise ValueError(
                f"expected weights of energies, forces and stresses, at least one above 0, got {self.weights}"
            )

    def run(self, values: Values, ranks: int = 1) -> dict[str, Any]:
        """The training run of a configuration, as in YAML.

        Raises:
            ValueError: settings that a run, or its backbone, refuses.
        """
        chosen = {**self.space.fixed, **values}
        named = {"model": {"backbone": {"name": self.space.backbone}}}
        branches = [to_mapping(branch) for branch in self.branches]
        mapping = joined(
            USUAL, nested(chosen), named, {"branches": branches, "epochs": float(self.epochs), "seed": self.seed}
        )
        config = from_mapping(TrainConfig, mapping, where="settings")
        PotentialConfig.from_mapping(config.model)
        steps = self._steps(config, ranks)
        config = replace(config, validate_every=steps)
        if "optim.warmup_steps" not in chosen:
            warm = min(config.optim.warmup_steps, max(1, self.epochs * steps // WARM))
            config = replace(config, optim=replace(config.optim, warmup_steps=warm))
        return to_mapping(config)

    def _steps(self, config: TrainConfig, ranks: int) -> int:
        """Of an epoch, about: ``batch.max_atoms`` may make it more."""
        sizes = [part_size(size, self.fraction) for size in self.sizes]
        draws = int(config.sampling.draws(sizes, [branch.share for branch in self.branches]).sum())
        return max(1, -(-draws // (config.batch.structures * ranks)))

    def comparable(self) -> dict[str, Any]:
        """What must stay the same for a campaign to go on, in the types of JSON, with parameters by their names."""
        mapping = {key: value for key, value in to_mapping(self).items() if key != "device"}
        searched = {p.name: p.range for p in self.space.parameters}
        return {**mapping, "space": {**mapping["space"], "parameters": searched}}


def branches_of(files: Sequence[Path]) -> tuple[BranchData, ...]:
    """A branch for each file; packed ones are called as their file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is neither a store nor packed.
    """
    branches: list[BranchData] = []
    for path in files:
        if path.suffix not in (".bp", ".npz"):
            raise ValueError(
                f"{path}: expected a store (.bp) or a packed file (.npz); docs/data.md says how to make one"
            )
        if not path.exists():
            from gfmpot.config import similar_name

            raise FileNotFoundError(f"no data {path}{similar_name(path)}")
        branches.append(BranchData((str(path.resolve()),), name=path.stem if path.suffix == ".npz" else ""))
    _different(branch.name for branch in branches if branch.name)
    return tuple(branches)


def _different(names: Iterable[str]) -> None:
    every = list(names)
    if len(set(every)) < len(every):
        raise ValueError(f"branches must have different names, got {', '.join(every)}; --config can name them")


def split_of(fixed: Values) -> dict[str, Any]:
    """The settings of the split among fixed ones."""
    return {name.removeprefix("split."): value for name, value in fixed.items() if name.startswith("split.")}


def opened(branches: Sequence[BranchData], split: Mapping[str, Any]) -> tuple[tuple[BranchData, ...], tuple[int, ...]]:
    """Read all data once: branches with their names, and the sizes of their training splits.

    What is wrong with data is an error now, rather than the reason for the failure of every trial.

    Raises:
        ValueError: data that training would refuse, or two branches of the same name.
        OSError: they cannot be read.
    """
    from gfmpot.training.corpus import SplitConfig

    sides = from_mapping(SplitConfig, split, where="split")
    corpora = [read_branch(branch, [Path(file) for file in branch.files], sides) for branch in branches]
    names = [corpus.info.name for corpus in corpora]
    _different(names)
    named = tuple(replace(branch, name=name) for branch, name in zip(branches, names, strict=True))
    return named, tuple(len(corpus.splits["train"]) for corpus in corpora)
