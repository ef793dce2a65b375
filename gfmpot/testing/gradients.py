"""Checks of what only a potential has: batches, training by branch, gradients of parameters, charge and spin."""

from __future__ import annotations

import torch
from ase import Atoms
from torch import Tensor

from gfmpot.graph import AtomGraph
from gfmpot.models import Potential
from gfmpot.testing.compare import Errors, NotApplicable, deviation, verdict
from gfmpot.testing.structures import rattled
from gfmpot.testing.subject import Subject, graph_for, split


def batches(subject: Subject) -> Errors:
    """A batch gives each structure what it gets alone, a lone atom and an ion included."""
    potential = _potential(subject)
    structures = _all_structures(subject)
    batch = AtomGraph.batch([graph_for(potential, atoms) for atoms in structures.values()])
    sizes = [len(atoms) for atoms in structures.values()]
    together = split(potential(batch, head=subject.head, spread="none"), sizes)
    for (name, atoms), results in zip(structures.items(), together, strict=True):
        yield name, deviation(results, subject.evaluate(atoms))


def training_path(subject: Subject) -> Errors:
    """What a branch is trained on is what it answers: ``labelled`` equals ``head=``, in batches as well."""
    potential = _potential(subject)
    structures = _all_structures(subject)
    graphs = [_labelled_graph(subject, atoms) for atoms in structures.values()]
    together = split(potential.labelled(AtomGraph.batch(graphs)), [len(atoms) for atoms in structures.values()])
    for name, graph, trained in zip(structures, graphs, together, strict=True):
        assert graph.branch is not None
        head = potential.branch_names[int(graph.branch[0])]
        (answered,) = split(potential(graph, head=head, spread="none"), [graph.n_atoms])
        yield name, deviation(trained, {key: answered[key] for key in trained})


def double_backward(subject: Subject) -> Errors:
    """A loss on energy, forces and stress reaches every parameter of backbone and elements, with finite gradients."""
    potential = _potential(subject)
    graphs = {name: _labelled_graph(subject, atoms) for name, atoms in _all_structures(subject).items()}
    graphs["batch of all"] = AtomGraph.batch(list(graphs.values()))
    for name, graph in graphs.items():
        gradients = _gradients(potential, graph)
        missing = [key for key, gradient in gradients.items() if gradient is None]
        bad = [key for key, gradient in gradients.items() if gradient is not None and not gradient.isfinite().all()]
        faults = [*(f"no gradient: {key}" for key in missing), *(f"not finite: {key}" for key in bad)]
        yield ", ".join([name, *faults[:3]]), verdict(not faults)


def parameters_learn(subject: Subject) -> Errors:
    """No parameter of the backbone is idle: over a batch of everything, each gets a gradient that is not zero."""
    potential = _potential(subject)
    graph = AtomGraph.batch([_labelled_graph(subject, atoms) for atoms in _all_structures(subject).values()])
    for name, gradient in _gradients(potential, graph).items():
        yield name, verdict(gradient is not None and bool(gradient.any()))


def charge_and_spin(subject: Subject) -> Errors:
    """Charge and multiplicity change the energy in every path and can be learnt; unstated ones mean neutral."""
    potential = _potential(subject)
    ion = subject.samples.ion()
    plain = subject.samples.molecule()
    neutral, charged, open_shell = plain.copy(), plain.copy(), plain.copy()
    neutral.info.update(charge=0, spin=None)
    charged.info.update(charge=1)
    open_shell.info.update(charge=0, spin=1 if plain.numbers.sum() % 2 == 0 else 2)
    yield "neutral is the default", deviation(subject.evaluate(neutral), subject.evaluate(plain))
    for name, atoms in {"charge": charged, "spin": open_shell, "both": ion}.items():
        shift = float(subject.evaluate(atoms)["energy"] - subject.evaluate(plain)["energy"])
        yield f"{name} changes the energy", verdict(abs(shift) > 1e-9)
        for key, loss in _losses(potential, _labelled_graph(subject, atoms)).items():
            weight = potential.embedding.charge_and_spin.weight
            (gradient,) = torch.autograd.grad(loss, weight, retain_graph=True)
            yield f"{name}, gradient of {key}", verdict(bool(gradient.any() and gradient.isfinite().all()))


def _potential(subject: Subject) -> Potential:
    if subject.potential is None:
        raise NotApplicable("only for a Potential")
    return subject.potential


def _all_structures(subject: Subject) -> dict[str, Atoms]:
    samples = subject.samples
    return samples.general() | samples.edge_cases() | {"ion": rattled(samples.ion())}


def _labelled_graph(subject: Subject, atoms: Atoms) -> AtomGraph:
    """As if labelled by the subject's head, or else by the first branch that supports the structure."""
    potential = _potential(subject)
    elements = set(atoms.get_chemical_symbols())
    able = [b.name for b in potential.branches if elements <= set(b.e0) and subject.head in (None, b.name)]
    branch = torch.tensor([potential.branch_index(able[0])], device=potential.device)
    return graph_for(potential, atoms).replace(branch=branch)


def _losses(potential: Potential, graph: AtomGraph) -> dict[str, Tensor]:
    prediction = potential.labelled(graph)
    assert prediction.forces is not None
    assert prediction.stress is not None
    # Weights break symmetries in which a sum of squares would have no gradient.
    losses = {"energy": prediction.energy.sum(), "forces": ((prediction.forces - 0.1) ** 2).sum()}
    if not graph.volume.isnan().all():
        losses["stress"] = ((prediction.stress - 0.01)[~graph.volume.isnan()] ** 2).sum()
    return losses


def _gradients(potential: Potential, graph: AtomGraph) -> dict[str, Tensor | None]:
    """Of the sum of all losses, by parameter of the backbone and of the element embedding."""
    names, parameters = zip(*potential.backbone.named_parameters(prefix="backbone"), strict=True)
    names, parameters = (*names, "embedding.elements"), (*parameters, potential.embedding.elements.weight)
    total = torch.stack(list(_losses(potential, graph).values())).sum()
    return dict(zip(names, torch.autograd.grad(total, parameters, allow_unused=True), strict=True))
