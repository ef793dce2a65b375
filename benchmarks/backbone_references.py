"""The originals of backbones, on the inputs that ``benchmarks/backbones.py`` wrote: one per process.

python benchmarks/backbone_references.py NAME INPUTS.npz REPEATS

Runs where the original is installed; gfmpot need not be. Every model gets edges, edge vectors and its sizes, and gives
milliseconds of energy and forces (the gradient by edge vectors) and of a training step's gradient (through the forces),
as a line of JSON. What finds neighbours is not part of it.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Inputs = dict[str, Tensor]
Energy = Callable[[Tensor], Tensor]
"""Edge vectors (E, 3), sender to receiver, to an energy."""


def schnet(given: Inputs, size: dict[str, Any]) -> tuple[nn.Module, Energy]:
    """PyTorch Geometric's."""
    from torch_geometric.nn.models.schnet import SchNet

    model = SchNet(size["hidden"], size["filters"], size["layers"], size["gaussians"], size["cutoff"])
    edges = given["edge_index"]

    def energy(vectors: Tensor) -> Tensor:
        lengths = vectors.norm(dim=1)
        h, smeared = model.embedding(given["numbers"]), model.distance_expansion(lengths)
        for block in model.interactions:
            h = h + block(h, edges, lengths, smeared)
        return model.lin2(model.act(model.lin1(h))).sum()

    return model, energy


def dimenet(given: Inputs, size: dict[str, Any]) -> tuple[nn.Module, Energy]:
    """PyTorch Geometric's DimeNet++, which needs the pairs of edges."""
    from torch_geometric.nn.models.dimenet import DimeNetPlusPlus

    model = DimeNetPlusPlus(
        hidden_channels=size["hidden"],
        out_channels=1,
        num_blocks=size["layers"],
        int_emb_size=size["interaction_embedding"],
        basis_emb_size=size["basis_embedding"],
        out_emb_channels=size["output_embedding"],
        num_spherical=size["spherical_basis"],
        num_radial=size["radial_basis"],
        cutoff=size["cutoff"],
        envelope_exponent=size["envelope_exponent"],
        num_before_skip=size["layers_before_skip"],
        num_after_skip=size["layers_after_skip"],
    )
    senders, receivers = given["edge_index"]
    first, second = following(given["edge_index"], given["shifts"])
    atoms = len(given["numbers"])

    def energy(vectors: Tensor) -> Tensor:
        lengths = vectors.norm(dim=1)
        back, forth = -vectors[second], vectors[first]
        cross = torch.linalg.cross(back, forth).norm(dim=1)
        angles = torch.atan2(cross, (back * forth).sum(dim=1))
        rbf, sbf = model.rbf(lengths), model.sbf(lengths, angles, first)
        x = model.emb(given["numbers"], rbf, receivers, senders)
        total = model.output_blocks[0](x, rbf, receivers, num_nodes=atoms)
        for interaction, output in zip(model.interaction_blocks, model.output_blocks[1:], strict=True):
            x = interaction(x, rbf, sbf, first, second)
            total = total + output(x, rbf, receivers, num_nodes=atoms)
        return total.sum()

    return model, energy


def following(edges: Tensor, shifts: Tensor) -> tuple[Tensor, Tensor]:
    """Edges k → j and j → i, all but the way back, for each j → i."""
    by_receiver: dict[int, list[int]] = {}
    senders, receivers = edges.tolist()
    for e, atom in enumerate(receivers):
        by_receiver.setdefault(atom, []).append(e)
    turned = [tuple(row) for row in (-shifts).tolist()]
    there = [tuple(row) for row in shifts.tolist()]
    pairs = [
        (arriving, e)
        for e in range(len(senders))
        for arriving in by_receiver.get(senders[e], [])
        if not (senders[arriving] == receivers[e] and there[arriving] == turned[e])
    ]
    first, second = torch.tensor(pairs).T
    return first, second


def painn(given: Inputs, size: dict[str, Any]) -> tuple[nn.Module, Energy]:
    """SchNetPack's."""
    import torch.utils.data.dataloader

    torch.utils.data.dataloader.T_co = None  # type: ignore[attr-defined]  # a name that SchNetPack imports
    from schnetpack import properties
    from schnetpack.nn import BesselRBF, CosineCutoff
    from schnetpack.representation import PaiNN

    basis, envelope = BesselRBF(size["radial_basis"], size["cutoff"]), CosineCutoff(size["cutoff"])
    model = nn.ModuleList([PaiNN(size["hidden"], size["layers"], basis, envelope), nn.Linear(size["hidden"], 1)])
    senders, receivers = given["edge_index"]

    def energy(vectors: Tensor) -> Tensor:
        inputs = {
            properties.Z: given["numbers"],
            properties.Rij: -vectors,
            properties.idx_i: receivers,
            properties.idx_j: senders,
        }
        return model[1](model[0](inputs)["scalar_representation"]).sum()  # type: ignore[no-any-return]

    return model, energy


def mace(given: Inputs, size: dict[str, Any]) -> tuple[nn.Module, Energy]:
    """mace-torch's."""
    from e3nn import o3
    from mace.modules import MACE, interaction_classes

    kinds = sorted(set(given["numbers"].tolist()))
    hidden = "+".join(f"{size['hidden']}x{ell}{'oe'[ell % 2 == 0]}" for ell in range(size["node_max_ell"] + 1))
    model = MACE(
        r_max=size["cutoff"],
        num_bessel=size["radial_basis"],
        num_polynomial_cutoff=6,
        max_ell=size["max_ell"],
        interaction_cls=interaction_classes["RealAgnosticResidualInteractionBlock"],
        interaction_cls_first=interaction_classes["RealAgnosticInteractionBlock"],
        num_interactions=size["layers"],
        num_elements=len(kinds),
        hidden_irreps=o3.Irreps(hidden),
        MLP_irreps=o3.Irreps("16x0e"),
        gate=torch.nn.functional.silu,
        atomic_energies=np.zeros(len(kinds)),
        avg_num_neighbors=size["mean_neighbours"],
        atomic_numbers=kinds,
        correlation=size["correlation"],
    )
    places = torch.tensor([kinds.index(z) for z in given["numbers"].tolist()])
    attributes = nn.functional.one_hot(places, len(kinds)).to(torch.get_default_dtype())
    edges, atoms = given["edge_index"], len(places)

    def energy(vectors: Tensor) -> Tensor:
        lengths = vectors.norm(dim=1, keepdim=True)
        h, angular = model.node_embedding(attributes), model.spherical_harmonics(vectors)
        radial = model.radial_embedding(lengths, attributes, edges, model.atomic_numbers)
        radial = radial[0] if isinstance(radial, tuple) else radial
        total = vectors.new_zeros(())
        for interaction, product, readout in zip(model.interactions, model.products, model.readouts, strict=True):
            h, skip = interaction(
                node_attrs=attributes, node_feats=h, edge_attrs=angular, edge_feats=radial, edge_index=edges
            )
            h = product(node_feats=h, sc=skip, node_attrs=attributes)
            total = total + readout(h).sum()
        return total

    assert atoms
    return model, energy


REFERENCES = {"schnet": schnet, "dimenet": dimenet, "painn": painn, "mace": mace}


def median(work: Callable[[], object], repeats: int) -> float:
    """Milliseconds of CPU time, after one to warm up."""
    taken = []
    for _ in range(repeats + 1):
        begun = time.process_time()
        work()
        taken.append(1e3 * (time.process_time() - begun))
    return statistics.median(taken[1:])


def times(model: nn.Module, energy: Energy, vectors: Tensor, repeats: int) -> dict[str, float]:
    """Milliseconds (CPU time), medians after one to warm up."""
    weights = [p for p in model.parameters() if p.requires_grad]

    def answer(create: bool) -> Tensor:
        moved = vectors.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(energy(moved), moved, create_graph=create)
        return gradient

    def learn() -> None:
        loss = answer(True).square().sum()
        torch.autograd.grad(loss, weights, allow_unused=True)

    return {
        "parameters": float(sum(p.numel() for p in weights)),
        "answer": median(lambda: answer(False), repeats),
        "step": median(learn, repeats),
    }


def main() -> None:
    name, path, repeats = sys.argv[1], sys.argv[2], int(sys.argv[3])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with np.load(path) as file:
        size = json.loads(str(file["size"]))
        given = {key: torch.as_tensor(file[key]) for key in ("numbers", "edge_index", "shifts", "vectors")}
    torch.set_default_dtype(torch.float32)
    model, energy = REFERENCES[name](given, size)
    found = times(model, energy, given["vectors"].float(), repeats)
    assert all(math.isfinite(value) for value in found.values())
    print(json.dumps(found))


if __name__ == "__main__":
    main()
