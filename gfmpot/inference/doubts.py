"""What an answer is to be doubted for: charge, boundaries and surroundings that the branches behind it never learnt."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from ase.data import chemical_symbols
from ase.formula import Formula

from gfmpot.graph import UNSPECIFIED_SPIN, AtomGraph
from gfmpot.inference.advice import advise
from gfmpot.models import BranchInfo, Prediction

FAR = 1.2
"""Novelty above which a warning is due: of 2,000 unseen structures like those of the training, none has more."""

SAY = 0.01
"""Weight from which a branch is said to answer."""

PERIODIC_SAY = 0.1
"""Weight from which branches that learnt from periodic structures alone are said to answer for a molecule."""


class Doubts:
    """Warns of answers, of each thing once.

    Args:
        branches: that may answer.
        blended: whether the composition chooses among them; if not, the user did.
    """

    def __init__(self, branches: Sequence[BranchInfo], *, blended: bool) -> None:
        self._branches = branches
        self._of_crystals = torch.tensor([branch.periodic == 1 for branch in branches])
        self._of_molecules = [k for k, b in enumerate(branches) if b.periodic is not None and b.periodic < 1]
        self._states_said: set[tuple[int, int]] = set()
        self._boundaries_said = not blended or not self._of_molecules
        self._novelty_said = False

    def tell(self, graph: AtomGraph, prediction: Prediction) -> None:
        """Of a prediction with the weights of its branches."""
        self._tell_of_states(graph, prediction)
        self._tell_of_boundaries(graph, prediction)
        self._tell_of_novelty(graph, prediction)

    def _tell_of_states(self, graph: AtomGraph, prediction: Prediction) -> None:
        """Once per charge and multiplicity that a branch with a say in the answer was not trained on."""
        assert prediction.branch_weights is not None
        states = zip(graph.charge.tolist(), graph.spin.tolist(), strict=True)
        for state, weights in zip(states, prediction.branch_weights.tolist(), strict=True):
            if state in self._states_said:
                continue
            doubts = {b.name: doubt for b in self._with_a_say(weights) if (doubt := _doubt(b, *state))}
            if doubts:
                self._states_said.add(state)
                said = "; ".join(f"{name} {doubt}" for name, doubt in doubts.items())
                advise(f"{said}; the answer is a guess")

    def _tell_of_boundaries(self, graph: AtomGraph, prediction: Prediction) -> None:
        """Once: a molecule that crystals' branches answer for, while another one knows molecules of its elements."""
        if self._boundaries_said:
            return
        assert prediction.branch_weights is not None
        free = ~graph.pbc.any(dim=1).cpu()
        if not free.any():
            return
        weights = prediction.branch_weights.cpu()
        doubtful = free & ((weights * self._of_crystals).sum(dim=1) >= PERIODIC_SAY)
        for i in doubtful.nonzero()[:, 0].tolist():
            symbols = _symbols(graph, i)
            able = [k for k in self._of_molecules if weights[i, k] > 0 and set(symbols) <= set(self._branches[k].e0)]
            if not able:  # silent ones are not what a user is to be sent to
                continue
            best = self._branches[max(able, key=lambda k: float(weights[i, k]))].name
            answering = self._branches[int((weights[i] * self._of_crystals).argmax())].name
            self._boundaries_said = True
            advise(
                f"{Formula.from_list(symbols).format('hill')} has no periodic boundaries, but {answering}, which its "
                f"composition chooses, learnt from periodic structures alone. {best} has learnt molecules of these "
                f"elements: give head={best!r}. Said once"
            )
            return

    def _tell_of_novelty(self, graph: AtomGraph, prediction: Prediction) -> None:
        """Once: an atom whose surroundings are unlike all that the branches which answer were trained on."""
        if self._novelty_said or prediction.novelty is None or prediction.energy_std is None:
            return
        novelty, atom = prediction.novelty.max(dim=0)
        if not novelty > FAR:  # NaN is an error of its own
            return
        self._novelty_said = True
        structure = int(graph.structure_of_atom[int(atom)])
        index = int(atom) - int((graph.structure_of_atom < structure).sum())
        symbol = chemical_symbols[int(graph.atomic_numbers[int(atom)])]
        which = f"atom {index} ({symbol})" + (f" of structure {structure}" if graph.n_structures > 1 else "")
        assert prediction.branch_weights is not None
        answering = " and ".join(b.name for b in self._with_a_say(prediction.branch_weights[structure].tolist()))
        advise(
            f"the surroundings of {which} are far from all that {answering} learnt from: novelty {float(novelty):.1f}, "
            f"where training ends at 1; the answer is a guess, and so is its energy_std of "
            f"{float(prediction.energy_std[structure]):.2g} eV. Said once; results have both"
        )

    def _with_a_say(self, weights: Sequence[float]) -> list[BranchInfo]:
        """The branches that are said to answer, by their weights (B,)."""
        return [branch for branch, weight in zip(self._branches, weights, strict=True) if weight >= SAY]


def _symbols(graph: AtomGraph, structure: int) -> list[str]:
    numbers = graph.atomic_numbers[graph.structure_of_atom == structure]
    return [chemical_symbols[z] for z in numbers.tolist()]


def _doubt(branch: BranchInfo, charge: int, spin: int) -> str | None:
    """What a branch has not learnt of a charge and a multiplicity; None if it has seen them together."""
    spins = [seen for of, seen in branch.states if of == charge]
    if not spins:
        return f"never saw total charge {charge:+d} in training"
    if spin in spins or (spin == UNSPECIFIED_SPIN and charge == 0):
        return None
    of_charge = f" of total charge {charge:+d}" if charge else ""
    if spin != UNSPECIFIED_SPIN:
        return f"never saw multiplicity {spin}{of_charge} in training"
    return f"learnt multiplicity {' and '.join(map(str, spins))}{of_charge}: give spin, which is 2S+1"
