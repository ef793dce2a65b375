"""A downstream task, as a recipe declares it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from gfmpot.config import did_you_mean
from gfmpot.models.target import Kind, Target

Strategy = Literal["scratch", "frozen", "unfrozen", "keep", "lora"]

STRATEGIES: dict[Strategy, str] = {
    "scratch": "random weights, the same architecture",
    "frozen": "pretrained backbone that stays as it is, new head",
    "unfrozen": "pretrained backbone, new head, all of it trained",
    "keep": "as unfrozen, with the head of the closest branch instead of a new one; for energies",
    "lora": "pretrained backbone whose matrices change by a low rank, new head; for energies",
}

PAPER_STRATEGIES: tuple[Strategy, ...] = ("scratch", "frozen", "unfrozen")
"""What ``--strategy all`` compares (paper, section VII-D)."""


_OF_ENERGIES = ("energy_mae", "energy_rmse", "energy_max", "energy_per_atom_mae", "energy_per_atom_rmse")
_OF_FORCES = ("forces_mae", "forces_rmse", "forces_norm_mae", "stress_mae")
_OF_NUMBERS = ("mae", "rmse", "max_error", "r2", "std")

MEASURED: dict[Kind, tuple[str, ...]] = {
    "energy": (*_OF_ENERGIES, *_OF_FORCES),
    "extensive": _OF_NUMBERS,
    "intensive": _OF_NUMBERS,
    "class": ("roc_auc", "f1", "accuracy", "brier", "log_loss", "ece", "std"),
}
"""Errors by kind of target; ``std`` is that between the folds of :mod:`gfmpot.finetune.matbench`."""


@dataclass(frozen=True)
class Measure:
    """An error that is reported."""

    key: str
    """As :mod:`gfmpot.finetune.measures` calls it, e.g. ``energy_mae``."""

    unit: str
    """In which it is reported."""

    factor: float = 1.0
    """From eV and Å, or from the unit of the target, to that unit."""

    title: str = ""
    """Of its column; made of the key if not given."""

    @property
    def column(self) -> str:
        """Heading of its column."""
        return f"{self.title or self.key.replace('_', ' ')}{f' ({self.unit})' if self.unit else ''}"


@dataclass(frozen=True)
class Paper:
    """What the paper says of a task (Tables VI to XIV)."""

    table: str
    """E.g. ``Table VIII``."""

    results: Mapping[Strategy, tuple[float | None, ...]]
    """By strategy, in the order of the task's measures and in their units; None where the paper has none."""

    setting: str = ""
    """How it was measured there, as far as that differs."""


@dataclass(frozen=True)
class Task:
    """What is learnt from which data, how, and how it is judged."""

    name: str
    """Short; of the folder and of the branch."""

    title: str
    reader: str
    """A file of :mod:`gfmpot.finetune.readers`."""

    target: Target
    """Energies train a potential; called ``energy``, they are those of the frames. All else trains a model of a
    property."""

    measures: tuple[Measure, ...]
    forces: bool = False
    """Learn forces as well as energies."""

    relative: bool = False
    """Energies are known up to a constant for each group: differences within a group are learnt and judged."""

    branch_name: str = ""
    """``<dataset>-<theory>``; the task's name if not given."""

    theory: str = ""
    licence: str = ""
    citation: str = ""

    strategy: Strategy = "unfrozen"
    """Unless the command line says otherwise."""

    split: tuple[float, float, float] | Literal["published"] = (0.7, 0.15, 0.15)
    """Training, validation and test: shares of all, or numbers of structures (Table VII); or the publishers' sides."""

    split_by: Literal["structure", "group"] = "structure"
    """``group``: molecules, trajectories or formulas stay together."""

    epochs: float = 100
    batch: int = 32
    learning_rate: float = 1e-3
    """Of the head; of all, from scratch. The text of Table VII that we have is blank here."""

    backbone_learning_rate: float = 3e-4
    """Of a pretrained backbone that is trained."""

    energy_weight: float = 4.0
    force_weight: float = 1.0
    stress_weight: float = 0.0
    """Of the loss, per eV/atom, eV/Å and eV/Å³."""

    cutoff: float | None = None
    max_neighbours: int | None = None
    """Of networks from scratch; a pretrained backbone keeps those that it was trained with."""

    paper: Paper | None = None
    notes: tuple[str, ...] = field(default=())
    """For the report: what a reader must know to compare."""

    @property
    def branch(self) -> str:
        """Of the potential that it makes."""
        return self.branch_name or self.name

    def __post_init__(self) -> None:
        known = MEASURED[self.target.kind]
        for measure in self.measures:
            if measure.key not in known:
                raise ValueError(f"{self.name}: no measure {measure.key!r}{did_you_mean(measure.key, known)}")
        if self.strategy not in STRATEGIES:
            raise ValueError(f"{self.name}: no strategy {self.strategy!r}{did_you_mean(self.strategy, STRATEGIES)}")
        if self.paper and any(len(row) != len(self.measures) for row in self.paper.results.values()):
            raise ValueError(f"{self.name}: expected {len(self.measures)} numbers of the paper for each strategy")
        if not isinstance(self.split, str) and min(self.split) <= 0:
            raise ValueError(f"{self.name}: every part of the split must be above 0, got {self.split}")
        if self.forces and self.target.kind != "energy":
            raise ValueError(f"{self.name}: forces are learnt with energies only, got a {self.target.kind} target")
        whole = self.split_by == "group" and self.split != "published"
        if self.relative and (self.target.kind != "energy" or not whole):
            raise ValueError(f"{self.name}: relative needs a target of kind energy, and a drawn split by group")
