"""What an answer is to be doubted for: charge, boundaries and surroundings that the branches behind it never learnt."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from ase.data import chemical_symbols
from ase.formula import Formula
from torch import Tensor

from gfmpot.graph import UNSPECIFIED_SPIN, AtomGraph
from gfmpot.inference.advice import advise
from gfmpot.models import BranchInfo, Potential, Prediction

FAR = 1.2
"""Novelty above which a warning is due: of 2,000 unseen structures like those of the training, none has more."""

SAY = 0.01
"""Weight from which a branch is said to answer."""

CRYSTALS, MOLECULES = 0.99, 0.5
"""Share of periodic structures from which a branch is one of crystals, and up to which it has learnt molecules, too."""

CRYSTALS_SAY = 0.1
"""Weight from which branches of crystals are said to answer for a molecule."""


class Doubts:
    """Warns of answers, of each thing once.

    Args:
        potential: whose answers they are.
        blended: whether the composition chooses among its branches; if not, the user did.
    """

    def __init__(self, potential: Potential, *, blended: bool) -> None:
        self._branches = potential.branches
        silent = potential.weights.silent.tolist()  # whom a user is not to be sent to
        shares = [branch.periodic for branch in potential.branches]
        self._of_crystals = torch.tensor([share is not None and share >= CRYSTALS for share in shares])
        self._of_molecules = [
            k for k, share in enumerate(shares) if share is not None and share <= MOLECULES and not silent[k]
        ]
        self._states_said: set[tuple[int, int]] = set()
        self._boundaries_said = not blended or not self._of_molecules
        self._novelty_said = False

    def tell(self, graph: AtomGraph, prediction: Prediction) -> None:
        """Of a prediction with the weights of its branches."""
        assert prediction.branch_weights is not None
        self._tell_of_states(graph, prediction.branch_weights)
        self.tell_of_boundaries(graph, prediction.branch_weights)
        self._tell_of_novelty(graph, prediction, prediction.branch_weights)

    def _tell_of_states(self, graph: AtomGraph, branch_weights: Tensor) -> None:
        """Once per charge and multiplicity that a branch with a say in the answer was not trained on."""
        states = zip(graph.charge.tolist(), graph.spin.tolist(), strict=True)
        for state, weights in zip(states, branch_weights.tolist(), strict=True):
            if state in self._states_said:
                continue
            doubts = {b.name: doubt for b in self._with_a_say(weights) if (doubt := _doubt(b, *state))}
            if doubts:
                self._states_said.add(state)
                said = "; ".join(f"{name} {doubt}" for name, doubt in doubts.items())
                advise(f"{said}; the answer is a guess")

    def tell_of_boundaries(self, graph: AtomGraph, branch_weights: Tensor) -> None:
        """Once: a molecule that branches of crystals answer for, while another one knows molecules and its elements."""
        if self._boundaries_said:
            return
        free = ~graph.pbc.any(dim=1).cpu() & (graph.atoms_per_structure.cpu() > 1)  # an atom is neither
        if not free.any():
            return
        weights = branch_weights.cpu()
        share = (weights * self._of_crystals).sum(dim=1)
        for i in (free & (share >= CRYSTALS_SAY)).nonzero()[:, 0].tolist():
            symbols = _symbols(graph, i)
            able = [k for k in self._of_molecules if set(symbols) <= set(self._branches[k].e0)]
            if not able:
                continue
            best = self._branches[max(able, key=lambda k: float(weights[i, k]))].name
            answering = self._branches[int((weights[i] * self._of_crystals).argmax())].name
            self._boundaries_said = True
            formula, percent = Formula.from_list(symbols).format("hill"), f"{share[i]:.0%}"
            advise(
                f"{formula} has no periodic boundaries, but {answering}, which by its composition has {percent} of the "
                f"say, learnt from periodic structures. {best} has learnt molecules and knows its elements: give "
                f"head={best!r}. Said once"
            )
            return

    def _tell_of_novelty(self, graph: AtomGraph, prediction: Prediction, branch_weights: Tensor) -> None:
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
        answering = " and ".join(b.name for b in self._with_a_say(branch_weights[structure].tolist()))
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
