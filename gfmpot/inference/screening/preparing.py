"""From records to batches of graphs: what is done ahead of the evaluation, in this process or in others."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gfmpot.data.frame import Frame
from gfmpot.data.sources._molecules import formula
from gfmpot.graph import AtomGraph, BatchBudget, InvalidStructureError
from gfmpot.graph.build import COINCIDENT
from gfmpot.graph.joint import Searched, join, search
from gfmpot.inference.screening.formats import Defaults
from gfmpot.inference.screening.inputs import Block, Input, structures


@dataclass(frozen=True)
class Refused:
    """A structure that is not screened."""

    input: int
    index: int
    formula: str
    """Empty if it could not be read."""

    reason: str


@dataclass(frozen=True)
class Candidate:
    """A structure whose neighbours are found."""

    input: int
    index: int
    searched: Searched

    @property
    def n_atoms(self) -> int:
        """Atoms."""
        return self.searched.n_atoms

    @property
    def n_edges(self) -> int:
        """Directed edges."""
        return self.searched.n_edges

    def refused(self, reason: str) -> Refused:
        """Why it is not screened."""
        return Refused(self.input, self.index, formula(self.searched.numbers), reason)


@dataclass
class Piece:
    """Part of a block: G structures in one batch, and what was refused on the way. Light to send to another process."""

    block: int
    graph: AtomGraph | None  # None without structures
    inputs: NDArray[np.int64]  # (G,) number of the file
    indices: NDArray[np.int64]  # (G,) place in the file
    formulas: list[str]  # (G,)
    refused: list[Refused] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    """Spent on ``read`` and ``graph``."""

    is_last: bool = False
    """Whether the block ends with it."""

    @classmethod
    def last(cls, block: int, refused: list[Refused], seconds: dict[str, float]) -> Piece:
        """The end of a block."""
        none = np.zeros(0, dtype=np.int64)
        return cls(block, None, none, none, [], refused, seconds, is_last=True)

    def part(self, start: int, stop: int) -> Piece:
        """Structures ``start`` to ``stop``, without what was refused."""
        assert self.graph is not None
        span = slice(start, stop)
        graph = self.graph.part(start, stop)
        return Piece(self.block, graph, self.inputs[span], self.indices[span], self.formulas[span])

    def __len__(self) -> int:
        return len(self.formulas)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        return state | {"graph": None if self.graph is None else _packed(self.graph)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        arrays = state["graph"]
        self.__dict__ = state | {"graph": None if arrays is None else _unpacked(arrays)}


@dataclass(frozen=True)
class Preparation:
    """How blocks become pieces. It travels to other processes."""

    inputs: tuple[Input, ...]
    defaults: Defaults
    budget: BatchBudget
    cutoff: float
    max_neighbours: int | None
    supported: tuple[frozenset[int], ...]
    """Atomic numbers of each branch that may answer; what none of them supports is evaluated alone, since the model
    refuses a batch as a whole."""

    def pieces(self, block: Block) -> Iterator[Piece]:
        """The structures of a block in batches within the budget, in order; the last piece has no graph."""
        aside = _Aside()
        for batch in self.budget.pack(self._candidates(block, aside)):
            yield self._piece(block.number, batch, aside)
            yield from (self._piece(block.number, [alone], aside) for alone in aside.take_doubtful())
        yield from (self._piece(block.number, [alone], aside) for alone in aside.take_doubtful())
        yield Piece.last(block.number, *aside.take())

    def _candidates(self, block: Block, aside: _Aside) -> Iterator[Candidate]:
        for span in block.spans:
            entries = structures(self.inputs[span.input], span.start, span.stop, self.defaults)
            while True:
                with aside.timed("read"):
                    index, entry = next(entries, (-1, ""))
                if index < 0:
                    break
                with aside.timed("graph"):
                    candidate = self._candidate(span.input, index, entry, aside)
                if candidate is not None:
                    yield candidate

    def _candidate(self, item: int, index: int, entry: Frame | str, aside: _Aside) -> Candidate | None:
        """The candidate, unless it is put aside."""
        if isinstance(entry, str):
            aside.refused.append(Refused(item, index, "", entry))
            return None
        try:
            candidate = Candidate(item, index, self._searched(entry))
        except InvalidStructureError as error:
            aside.refused.append(Refused(item, index, "", str(error)))
            return None
        elements = set(entry.numbers.tolist())
        if any(elements <= supported for supported in self.supported):
            return candidate
        aside.doubtful.append(candidate)
        return None

    def _searched(self, frame: Frame) -> Searched:
        check_density(len(frame.numbers), frame.cell, frame.pbc)
        return search(
            frame.numbers,
            frame.positions,
            frame.cell,
            frame.pbc,
            cutoff=self.cutoff,
            charge=frame.charge,
            spin=frame.spin or None,
        )

    def _piece(self, block: int, batch: Sequence[Candidate], aside: _Aside) -> Piece:
        with aside.timed("graph"):
            graph, wrong = join([candidate.searched for candidate in batch], self.cutoff, self.max_neighbours)
            aside.refused += [batch[i].refused(reason) for i, reason in wrong.items()]
            kept = [candidate for i, candidate in enumerate(batch) if i not in wrong]
            inputs = np.array([candidate.input for candidate in kept], dtype=np.int64)
            indices = np.array([candidate.index for candidate in kept], dtype=np.int64)
            formulas = [formula(candidate.searched.numbers) for candidate in kept]
        return Piece(block, graph, inputs, indices, formulas, *aside.take())


def check_density(atoms: int, cell: NDArray[np.float64], pbc: NDArray[np.bool_]) -> None:
    """Refuse a cell so small that atoms lie on top of each other, before its perhaps millions of images are listed.

    Args:
        atoms: how many.
        cell: (3, 3) Å.
        pbc: (3,) which of its vectors are periodic.

    Raises:
        InvalidStructureError: an atom is on top of its own image, or spheres of that diameter do not fit in.
    """
    lengths = np.linalg.norm(cell, axis=1)[pbc]
    volume = abs(float(np.linalg.det(cell))) if pbc.all() else np.inf
    is_short = bool(((lengths > 0) & (lengths < COINCIDENT)).any())
    is_full = 0 < volume < atoms * COINCIDENT**3 / np.sqrt(2)  # as dense as spheres can be
    if is_short or is_full:
        what = f"a cell vector of {lengths.min():.3g} Å" if is_short else f"{atoms} atoms in {volume:.3g} Å³"
        raise InvalidStructureError(
            f"{what}: atoms closer than {COINCIDENT} Å are taken for a mistake; check the cell and its units"
        )


class _Aside:
    """What does not go into the next batch, and where the time went."""

    def __init__(self) -> None:
        self.refused: list[Refused] = []
        self.doubtful: list[Candidate] = []
        self.seconds: dict[str, float] = {}

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Count the time inside."""
        begun = perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + perf_counter() - begun

    def take(self) -> tuple[list[Refused], dict[str, float]]:
        """What was refused, and times, since the last call."""
        taken = self.refused, self.seconds
        self.refused, self.seconds = [], {}
        return taken

    def take_doubtful(self) -> list[Candidate]:
        """The doubtful ones since the last call."""
        taken, self.doubtful = self.doubtful, []
        return taken


_NARROW = {"atomic_numbers": np.uint8, "edge_index": np.int32, "structure_of_atom": np.int32}
"""Types that the values fit in, with fewer bytes to send than int64 has."""


def _packed(graph: AtomGraph) -> dict[str, NDArray[Any]]:
    values = {item.name: getattr(graph, item.name) for item in dataclasses.fields(graph)}
    arrays = {name: value.numpy() for name, value in values.items() if value is not None}
    near = np.abs(arrays["cell_shifts"]).max(initial=0) < 128
    types = _NARROW | ({"cell_shifts": np.int8} if near else {})
    return {name: array.astype(types.get(name, array.dtype), copy=False) for name, array in arrays.items()}


def _unpacked(arrays: dict[str, NDArray[Any]]) -> AtomGraph:
    whole = {name: array.astype(np.int64) if array.dtype.kind in "iu" else array for name, array in arrays.items()}
    return AtomGraph(**{name: torch.from_numpy(array) for name, array in whole.items()})
