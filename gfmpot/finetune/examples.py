"""Structures of a task in memory, on the sides of its split."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from gfmpot.config import did_you_mean
from gfmpot.data import FrameSet
from gfmpot.data.frame import Rejected
from gfmpot.data.split import SplitName, draw_of_group
from gfmpot.finetune.reader import Example, Reader
from gfmpot.finetune.task import Task

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Sides = dict[SplitName, Ints]

ENERGY = "energy"
"""Name of the target that is the frame's own energy."""


@dataclass(frozen=True)
class Examples:
    """S structures with the value to be learnt of each."""

    frames: FrameSet
    """With that value as energy, if it is one."""

    values: Floats
    """(S,) in the target's unit."""

    keys: tuple[str, ...]
    sides: Sides
    left_out: Mapping[str, int]
    """How many were not used, by reason."""

    @cached_property
    def sha256(self) -> str:
        """Of all that training depends on."""
        digest = hashlib.sha256("\n".join(self.keys).encode())
        frames = self.frames
        digest.update("\n".join(frames.group.tolist()).encode())
        structures = (
            frames.numbers,
            frames.positions,
            frames.offsets,
            frames.cell,
            frames.pbc,
            frames.charge,
            frames.spin,
        )
        labels = (frames.energy, frames.forces, frames.stress, self.values)
        for array in (*structures, *labels, *self.sides.values()):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def part(self, side: SplitName, most: int | None = None) -> FrameSet:
        """The structures of a side; at most so many."""
        return self.frames.subset(self.sides[side][:most])


def read_examples(
    task: Task,
    reader: Reader,
    path: Path,
    *,
    limit: int | None = None,
    skip_unlabelled: bool = False,
    watch: Callable[[int, int], None] = lambda done, total: None,
) -> Examples:
    """Read, check and split a dataset.

    Args:
        task: its target and split.
        reader: who knows the format.
        path: of the data.
        limit: structures that are used; they are drawn at random, the same ones each time, and in whole groups where
            energies are relative.
        skip_unlabelled: leave out structures without the target rather than refuse the data.
        watch: is told how many of how many were read.

    Raises:
        FileNotFoundError: no data; says where they are to be had.
        ValueError: nothing that can be read, a target that is not there or not finite, or a side without structures.
    """
    chosen = _drawn(reader.count(path), None if task.relative else _needed(task, limit))
    examples: list[Example] = []
    rejected: list[Rejected] = []
    for i, found in enumerate(map(_checked, reader.read(path, chosen.tolist()))):
        (examples if isinstance(found, Example) else rejected).append(found)  # type: ignore[arg-type]
        watch(i + 1, len(chosen))
    if not examples:
        reason = f", the first, {rejected[0].where}, because: {rejected[0].reason}" if rejected else ""
        raise ValueError(f"{path}: no structure could be used{reason}")
    left_out = {"cannot be read": len(rejected)} if rejected else {}
    for one in rejected[:3]:
        log.warning("left out %s: %s", one.where, one.reason)
    values = np.array([_value(task, example, path) for example in examples])
    missing = np.flatnonzero(~np.isfinite(values))
    if len(missing) == len(values):
        raise ValueError(_nowhere(task, path, examples[0]))
    if len(missing):
        _refuse_unless(
            skip_unlabelled, f"{task.target.name} of {examples[missing[0]].key} is not finite", missing, values
        )
        left_out["without the target"] = len(missing)
        kept = np.flatnonzero(np.isfinite(values))
        examples, values = [examples[i] for i in kept], values[kept]
    if task.relative:
        kept, alone = _comparable(np.array([example.frame.group for example in examples]), limit)
        examples, values = [examples[i] for i in kept], values[kept]
        left_out |= {"alone in their group": alone} if alone else {}
    frames = FrameSet.from_frames([example.frame for example in examples], task.name)
    keys = tuple(example.key for example in examples)
    frames = _with_energies(task, frames, values)
    published = [example.frame.split for example in examples]
    return Examples(frames, values, keys, split_sides(task, frames, keys, published), left_out)


def split_sides(task: Task, frames: FrameSet, keys: Sequence[str], published: Sequence[SplitName | None] = ()) -> Sides:
    """Which structures are on which side, by hashes of their names: the same whatever else there is.

    Groups of the lowest draws are tested, the next ones validate, as in pretraining, where the same molecules were held
    out; or the sides are those that were published. A structure with an element that no training structure has is
    trained on. Training structures come in an order in which the first few have all the elements, for parts of them.

    Raises:
        ValueError: a side without structures, or structures that the publishers put on no side.
    """
    names = frames.group.tolist() if task.split_by == "group" else list(keys)
    draws = np.array([draw_of_group(name) for name in names])
    order = np.lexsort((np.arange(len(draws)), np.array(names), draws))
    if isinstance(task.split, str):
        side, trained = _published_sides(task, published), len(order)
    else:
        side, trained = _drawn_sides(task.split, np.array(names), order, whole=task.split_by == "group")
    side = _with_known_elements(frames, side)
    ordered = {name: order[side[order] == name] for name in ("train", "valid", "test")}
    train = _all_elements_first(frames, ordered["train"])[:trained]
    sides: Sides = {"train": train, "valid": ordered["valid"], "test": ordered["test"]}
    for name, part in sides.items():
        if not len(part):
            split = task.split if isinstance(task.split, str) else ":".join(f"{x:g}" for x in task.split)
            raise ValueError(
                f"{task.name}: the split {split} leaves no {name} structures of {len(order)} in {len(set(names))} "
                "groups; use more data or another split"
            )
    return sides


def part_sizes(split: tuple[float, float, float], structures: int) -> tuple[int, int, int]:
    """Numbers of structures from shares or numbers.

    Raises:
        ValueError: more than there are.
    """
    shares = sum(split) <= 1 + 1e-9
    if not shares and any(x != int(x) for x in split):
        raise ValueError(f"expected shares that add up to at most 1, or numbers of structures, got {split}")
    if not shares and sum(split) > structures:
        raise ValueError(f"the split {split} needs {sum(split):g} structures, there are {structures}")
    train, valid, test = (round(x * structures) if shares else int(x) for x in split)
    return (structures - valid - test if sum(split) > 1 - 1e-9 and shares else train), valid, test


def _checked(found: Example | Rejected) -> Example | Rejected:
    """What nothing can be learnt from is rejected, whatever its label: coincident atoms, an impossible multiplicity."""
    if isinstance(found, Rejected):
        return found
    reason = replace(found.frame, energy=0.0).problem()
    return found if reason is None else Rejected(found.key, reason)


def _needed(task: Task, limit: int | None) -> int | None:
    """Structures that are to be read: with a split in numbers, and single structures, no more than that."""
    if isinstance(task.split, str) or sum(task.split) <= 1 + 1e-9:
        return limit
    numbers = int(sum(task.split))
    spare = numbers + numbers // 50 + 10  # some may turn out not to be usable
    return spare if limit is None else min(limit, spare)


def _drawn(count: int, limit: int | None) -> Ints:
    if limit is None or limit >= count:
        return np.arange(count, dtype=np.int64)
    return np.sort(np.random.default_rng(0).permutation(count)[:limit])


def _comparable(groups: NDArray[np.str_], limit: int | None) -> tuple[Ints, int]:
    """Structures of whole groups that have others to be compared with, and how many have none.

    Raises:
        ValueError: all have none, or no group is as small as ``limit``.
    """
    codes = np.unique(groups, return_inverse=True)[1]
    sizes = np.bincount(codes)
    drawn = np.random.default_rng(0).permutation(np.flatnonzero(sizes > 1))
    used = drawn if limit is None else drawn[np.cumsum(sizes[drawn]) <= limit]
    if not len(used):
        raise ValueError(
            f"relative energies need groups of at least two structures; got {len(sizes)} groups of {sizes.min()} to "
            f"{sizes.max()}{'' if limit is None else f', of which at most {limit} structures are to be used'}"
        )
    return np.flatnonzero(np.isin(codes, used)), int((sizes == 1).sum())


def _nowhere(task: Task, path: Path, example: Example) -> str:
    """That no structure has the target, and what to do."""
    others = f"; the first has {', '.join(example.targets)}" if example.targets else ""
    if task.target.kind != "energy" or task.target.name != ENERGY:
        return f"{path}: no structure has a {task.target.name} that is a number{others}"
    return (
        f"{path}: no structure has an energy{others}. If labels have names of their own: "
        "--reader energy_key=REF_energy --reader forces_key=REF_forces"
    )


def _value(task: Task, example: Example, path: Path) -> float:
    name = task.target.name
    if name == ENERGY and task.target.kind == "energy" and name not in example.targets:
        return float(example.frame.energy)
    if name not in example.targets:
        raise ValueError(f"{path}: {example.key} has no {name!r}{did_you_mean(name, example.targets)}")
    return float(example.targets[name])


def _refuse_unless(skipping: bool, what: str, missing: Ints, values: Floats) -> None:
    if not skipping:
        raise ValueError(f"{what}, as of {len(missing)} of {len(values)} structures; --skip-unlabelled leaves them out")


def _with_energies(task: Task, frames: FrameSet, values: Floats) -> FrameSet:
    """With the values as total energies, and with forces only if they are learnt."""
    if task.target.kind != "energy":
        return frames
    energy = values * frames.atoms_per_structure if task.target.unit == "eV/atom" else values
    forces = frames.forces if task.forces else np.full_like(frames.forces, np.nan)
    if task.forces and not np.isfinite(forces).any():
        raise ValueError(
            f"{task.name} learns forces, and the data have none; gfmpot finetune --no-forces learns energies alone (a "
            "recipe says forces=False)"
        )
    stress = frames.stress if task.forces else np.full_like(frames.stress, np.nan)
    return replace(frames, energy=energy.astype(np.float64), forces=forces, stress=stress)


def _drawn_sides(
    split: tuple[float, float, float], names: NDArray[np.str_], order: Ints, *, whole: bool
) -> tuple[NDArray[np.str_], int]:
    """Sides (S,) by the order of draws, and how many structures are trained on; ``whole``: groups stay together."""
    trained, valid, test = part_sizes(split, len(order))
    side = np.full(len(order), "train", dtype="<U5")
    side[order[:test]] = "test"
    side[order[test : test + valid]] = "valid"
    all_used = abs(sum(split) - 1) < 1e-9  # then also those that come to training below
    return (_whole_groups(names, side, order) if whole else side), len(order) if all_used else trained


def _published_sides(task: Task, published: Sequence[SplitName | None]) -> NDArray[np.str_]:
    lacking = sum(side is None for side in published)
    if lacking:
        raise ValueError(
            f"{task.name}: the publishers put {lacking} of {len(published)} structures on no side; draw sides with "
            "--split 0.7,0.15,0.15"
        )
    return np.array(published, dtype="<U5")


def _whole_groups(names: NDArray[np.str_], side: NDArray[np.str_], order: Ints) -> NDArray[np.str_]:
    """A group that a border runs through goes to the side of its first structure."""
    first: dict[str, str] = {}
    for i in order.tolist():
        first.setdefault(names[i], side[i])
    return np.array([first[name] for name in names.tolist()], dtype="<U5")


def _all_elements_first(frames: FrameSet, train: Ints) -> Ints:
    """In the same order, but those that bring an element which none before them has come first."""
    present = frames.composition()[train] > 0
    before = np.logical_or.accumulate(present, axis=0)
    new = present.copy()
    new[1:] &= ~before[:-1]
    first = new.any(axis=1)
    return np.concatenate([train[first], train[~first]])


def _with_known_elements(frames: FrameSet, side: NDArray[np.str_]) -> NDArray[np.str_]:
    present = frames.composition() > 0
    unknown = present & ~present[side == "train"].any(axis=0)
    moved = unknown.any(axis=1)
    if moved.any():
        symbols = sorted({chemical_symbols[z + 1] for z in np.flatnonzero(unknown.any(axis=0))})
        log.warning(
            "%d structures with elements that are rare here (%s) are trained on rather than held out",
            moved.sum(),
            ", ".join(symbols),
        )
    return np.where(moved, "train", side)
