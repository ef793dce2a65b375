"""What the frozen branches of a potential say of structures, kept to train the weights that blend them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from gfmpot.graph import AtomGraph, BatchBudget
from gfmpot.graph.atom_graph import MAX_ATOMIC_NUMBER
from gfmpot.models import Potential
from gfmpot.models.backbone import Evaluator
from gfmpot.models.references import UnsupportedElementsError


@dataclass(frozen=True)
class BranchCache:
    """Answers of B branches for S structures of N atoms, and the labels, on the common energy scale.

    A missing label is NaN. Forces of the branches take 24 B bytes per atom, and nearly all of the memory: with 16
    branches, 2 million atoms have room in 1 GB.
    """

    branch: Tensor  # (S,) that the structure comes from
    fractions: Tensor  # (S, 118)
    supporting: Tensor  # (S, B) bool
    energies: Tensor  # (S, B) eV/atom, 0 where unsupported
    energy_labels: Tensor  # (S,) eV/atom
    forces: Tensor  # (N, 3, B) eV/Å, 0 where unsupported
    force_labels: Tensor  # (N, 3) eV/Å
    structure_of_atom: Tensor  # (N,)

    @classmethod
    def of(cls, potential: Potential, graphs: Iterable[AtomGraph]) -> BranchCache:
        """Evaluate labelled structures with ``branch``, on the potential's device; there may be none.

        Raises:
            UnsupportedElementsError: a structure whose own branch lacks an element.
        """
        batches = (AtomGraph.batch(batch) for batch in BatchBudget(max_edges=50_000).pack(graphs))
        kernels = potential.backbone.kernels(potential.dtype)
        evaluated = (_evaluate(potential, batch.to(potential.device), kernels) for batch in batches)
        parts = [_nothing(potential), *evaluated]
        joined = {f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in dataclasses.fields(cls)}
        sizes = torch.tensor([len(part.branch) for part in parts])
        offsets = (sizes.cumsum(0) - sizes).tolist()
        structure = [part.structure_of_atom + offset for part, offset in zip(parts, offsets, strict=True)]
        return cls(**{**joined, "structure_of_atom": torch.cat(structure)})

    def own_answers(self) -> tuple[Tensor, Tensor]:
        """(S,) eV/atom and (N, 3) eV/Å: what the branch says that each structure comes from."""
        own = self.branch[self.structure_of_atom].view(-1, 1, 1).expand(-1, 3, 1)
        return self.energies.gather(1, self.branch.unsqueeze(1)).squeeze(1), self.forces.gather(2, own).squeeze(2)


def _nothing(potential: Potential) -> BranchCache:
    """Of no structures."""
    branches = len(potential.branches)
    none = torch.zeros(0, dtype=torch.int64, device=potential.device)
    values = none.double()
    return BranchCache(
        branch=none,
        fractions=values.view(0, MAX_ATOMIC_NUMBER),
        supporting=none.bool().view(0, branches),
        energies=values.view(0, branches),
        energy_labels=values,
        forces=values.view(0, 3, branches),
        force_labels=values.view(0, 3),
        structure_of_atom=none,
    )


def _evaluate(potential: Potential, graph: AtomGraph, kernels: Evaluator | None) -> BranchCache:
    assert graph.branch is not None
    assert graph.energy is not None
    assert graph.forces is not None
    references, own = potential.references, graph.branch.unsqueeze(1)
    supporting = references.supporting(graph)
    if not supporting.gather(1, own).all():
        raise UnsupportedElementsError("a structure has elements that its own branch lacks; leave it out")
    aligned, forces = potential.every_branch(graph, evaluate=kernels)
    assert forces is not None
    counts = graph.composition
    atoms = counts.sum(dim=1, keepdim=True)
    to_common = (references.shifts(graph) - references.totals(graph)).gather(1, own)
    return BranchCache(
        branch=graph.branch,
        fractions=counts / atoms,
        supporting=supporting,
        energies=(aligned / atoms).masked_fill(~supporting, 0.0),
        energy_labels=((graph.energy.unsqueeze(1) + to_common) / atoms).squeeze(1),
        forces=forces.masked_fill(~supporting[graph.structure_of_atom].unsqueeze(1), 0.0),
        force_labels=graph.forces,
        structure_of_atom=graph.structure_of_atom,
    )
