"""What ``gfmpot evaluate`` reads: stores, packed files, and labelled structures in files of ASE's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gfmpot.cli.structures import Failure, read_all
from gfmpot.config import did_you_mean, similar_name, to_mapping
from gfmpot.data import AdiosStore, FrameSet, split_of_group
from gfmpot.data.dataset import Dataset, Joined
from gfmpot.data.frame import Frame, Rejected
from gfmpot.data.sources._ase import Labels, frame_or_rejected
from gfmpot.data.sources._npz import load_arrays

if TYPE_CHECKING:
    from gfmpot.inference.comparison import Ints

SPLITS = ("train", "valid", "test")
BLEND = "blend"


@dataclass(frozen=True)
class Part:
    """One of DATA, and the head that answers for it."""

    path: Path
    head: str
    """A branch, or "blend"."""

    split: str
    theory: str
    data: Dataset
    chosen: Ints
    """(M,) indices into the data: the split."""

    frames: tuple[int, ...] = ()
    """Which frame of a file of ASE's each structure is."""

    failures: tuple[Failure, ...] = ()
    """What could not be read."""

    def __str__(self) -> str:
        return self.path.name

    def place(self, index: int) -> str:
        """Where structure ``index`` of the data is."""
        if self.frames:
            return f"{self.path} frame {self.frames[index]}"
        return f"{self.path}{f' {self.split}' if self.path.is_dir() else ''}, structure {index}"


def check_split(split: str | None) -> None:
    """Refuse what is no split."""
    known = (*SPLITS, "all")
    if split is not None and split not in known:
        raise ValueError(f"--split {split!r}: no such split{did_you_mean(split, known)}")


def open_part(path: Path, head: str | None, split: str | None, heads: Sequence[str], labels: Labels) -> Part:
    """Open one of DATA.

    Args:
        path: a store, a packed file, or a file that ASE reads.
        head: the head that was asked for, if any.
        split: the split that was asked for, if any.
        heads: the model's.
        labels: names of labels in a file that ASE reads.

    Raises:
        ValueError: no such file, unreadable, an empty split, no labels, or a head that the model lacks.
        OSError: a store that is no store.
    """
    if not path.exists():
        raise ValueError(f"{path}: no such file{similar_name(path)}")
    if path.is_dir():
        part = _store(path, head, split or "test", heads)
    elif path.suffix == ".npz":
        part = _packed(path, chosen_head(path, head, heads), split or "test")
    else:
        part = _atoms(path, chosen_head(path, head, heads), split or "all", labels)
    if len(part.chosen) == 0:
        raise ValueError(f"{path}: its {part.split} split is empty; try --split all")
    return part


def chosen_head(path: Path, head: str | None, heads: Sequence[str], branch: str = "") -> str:
    """The head that answers for a file whose data are of ``branch``, if that is known; else the only one there is.

    Raises:
        ValueError: none was given and the model lacks the branch, or one was given that it lacks.
    """
    known = [*heads, BLEND]
    only = heads[0] if len(heads) == 1 else ""
    chosen = head or branch or only
    if chosen in known:
        return chosen
    if head is not None:
        raise ValueError(f"no head {head!r}{did_you_mean(head, known)}")
    why = f"is of the branch {branch!r}, which the model lacks" if branch else "does not say which head is to answer"
    raise ValueError(f"{path} {why}: give --head NAME, one of {', '.join(heads)}, or --head {BLEND}")


def _store(path: Path, head: str | None, split: str, heads: Sequence[str]) -> Part:
    store = AdiosStore(path)
    chosen = chosen_head(path, head, heads, store.manifest.branch)
    names = store.splits if split == "all" else (split,)
    parts = [store.split(name) for name in names]
    data = parts[0] if len(parts) == 1 else Joined(path.name, parts)
    return Part(path, chosen, split, store.manifest.theory, data, np.arange(len(data)))


def _packed(path: Path, head: str, split: str) -> Part:
    arrays = load_arrays(path)  # which says if the file is damaged
    meta = json.loads(str(arrays["meta"])) if "meta" in arrays else {}
    frames = FrameSet.from_npz(path)
    return Part(path, head, split, str(meta.get("theory", "")), frames, _side(frames, split))


def _atoms(path: Path, head: str, split: str, labels: Labels) -> Part:
    frames: dict[int, Frame] = {}
    failures: list[Failure] = []
    names: set[str] = set()
    for entry in read_all([path]):
        if isinstance(entry, Failure):
            failures.append(entry)
            continue
        group = str(entry.atoms.info.get("group", entry.index))
        found = frame_or_rejected(entry.atoms, group, str(entry), labels=labels)
        reason = found.reason if isinstance(found, Rejected) else _problem_of_shape(found)
        if reason or isinstance(found, Rejected):
            failures.append(Failure(str(entry), reason))
        else:
            frames[entry.index] = found
            names |= _candidates(entry.atoms)
    if not frames:
        raise ValueError("; ".join(map(str, failures[:3])) or f"{path}: holds no structure")
    data = FrameSet.from_frames(list(frames.values()), path.name)
    _require_labels(path, data, names, labels)
    return Part(path, head, split, "", data, _side(data, split), tuple(frames), tuple(failures))


def _problem_of_shape(frame: Frame) -> str:
    """Why labels cannot be those of the atoms; empty if they can."""
    wanted = {"forces": frame.positions.shape, "stress": (6,)}
    return "; ".join(
        f"expected {name} {shape}, got {getattr(frame, name).shape}"
        for name, shape in wanted.items()
        if getattr(frame, name).shape != shape
    )


def _candidates(atoms: Any) -> set[str]:
    """Names beside the atoms that look like labels."""
    names = {*atoms.info, *atoms.arrays} - {"numbers", "positions"}
    return {name for name in names if any(word in name.lower() for word in ("energ", "forc", "stress", "virial"))}


def _require_labels(path: Path, data: FrameSet, names: set[str], labels: Labels) -> None:
    named = to_mapping(labels)
    absent = [label for label in named if not np.isfinite(getattr(data, label)).any()]
    asked = [f"{label} called {named[label]!r}" for label in absent if named[label] != label]
    if len(absent) < len(named) and not asked:
        return
    what = " and no ".join(asked) or "energy, forces or stress to compare with"
    keys = "--energy-key, --forces-key and --stress-key"
    hint = f"; it has {', '.join(sorted(names))}, which {keys} may name" if names else ""
    raise ValueError(f"{path}: there is no {what}{hint}")


def _side(frames: FrameSet, split: str) -> Ints:
    """Indices of the structures on one side of the split by group."""
    if split == "all":
        return np.arange(len(frames))
    sides = {group: split_of_group(group) for group in set(frames.group.tolist())}
    return np.flatnonzero([sides[group] == split for group in frames.group.tolist()])
