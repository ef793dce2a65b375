"""Numbers of mace-torch for ``test_mace.py``: inputs, weights and outputs of the parts that correspond to ours.

Run in an environment of its own (benchmarks/envs/README.md), since mace-torch pins an e3nn that ours does not want:

    TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 benchmarks/envs/mace/bin/python tests/models/make_mace_parity.py

The variable lets e3nn 0.4.4 read constants of its own that today's PyTorch takes for a pickle.
"""

from __future__ import annotations

from pathlib import Path

import mace
import numpy as np
import torch
from e3nn import o3
from mace.modules.blocks import EquivariantProductBasisBlock, RealAgnosticResidualInteractionBlock
from mace.modules.radial import AgnesiTransform, BesselBasis, PolynomialCutoff, SoftTransform
from mace.modules.symmetric_contraction import SymmetricContraction

WIDTH, CUTOFF, MEAN_NEIGHBOURS = 3, 5.0, 7.0
NUMBERS = [1, 6, 14, 79]


def main() -> None:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    found = {"version": np.array(mace.__version__), **radial(), **angular(), **interaction(), **product_block()}
    for correlation in (2, 3):
        found |= contraction(correlation)
    arrays = {name: x.detach().numpy() if isinstance(x, torch.Tensor) else x for name, x in found.items()}
    np.savez_compressed(Path(__file__).with_name("mace_parity.npz"), **arrays)


def radial() -> dict[str, torch.Tensor]:
    d = torch.linspace(0.5, 5.2, 24).unsqueeze(1)
    senders, receivers = torch.randint(4, (2, len(d)))
    pairs = (torch.eye(4), torch.stack([senders, receivers]), torch.tensor(NUMBERS))
    return {
        "distances": d,
        "senders": senders,
        "receivers": receivers,
        "bessel": BesselBasis(CUTOFF, 8)(d),
        "envelope": PolynomialCutoff(CUTOFF, 6)(d),
        "agnesi": AgnesiTransform()(d, *pairs),
        "soft": SoftTransform()(d, *pairs),
    }


def angular() -> dict[str, torch.Tensor]:
    vectors = torch.randn(10, 3)
    values = o3.SphericalHarmonics([0, 1, 2, 3], normalize=True, normalization="component")(vectors)
    return {"vectors": vectors, "harmonics": values}


def contraction(correlation: int) -> dict[str, torch.Tensor]:
    """Of orders up to 2 to orders up to 1, with weights by element; U as the positions and values that are not zero."""
    irreps = o3.Irreps(f"{WIDTH}x0e + {WIDTH}x1o + {WIDTH}x2e")
    module = SymmetricContraction(irreps, o3.Irreps(f"{WIDTH}x0e + {WIDTH}x1o"), correlation, num_elements=2)
    a, element = torch.randn(5, WIDTH, 9), torch.tensor([0, 1, 1, 0, 1])
    name = f"contraction{correlation}"
    found = {f"{name}_a": a, f"{name}_element": element, f"{name}_out": module(a, torch.eye(2)[element])}
    for order, part in enumerate(module.contractions):
        weights = [*reversed(list(part.weights)), part.weights_max]  # MACE keeps them from the highest degree down
        for degree, weight in enumerate(weights, start=1):
            u = part.U_tensors(degree)
            where = u.nonzero()
            found[f"{name}_u{order}{degree}_where"] = where.to(torch.int8)
            found[f"{name}_u{order}{degree}_value"] = u[tuple(where.T)]
            found[f"{name}_u{order}{degree}_shape"] = torch.tensor(u.shape)
            found[f"{name}_w{order}{degree}"] = weight
    return found


def interaction() -> dict[str, torch.Tensor]:
    """A of a layer between scalars and vectors, from given outputs of the network of radial functions."""
    hidden = o3.Irreps(f"{WIDTH}x0e + {WIDTH}x1o")
    all_orders = o3.Irreps("0e + 1o + 2e")
    block = RealAgnosticResidualInteractionBlock(
        node_attrs_irreps=o3.Irreps("2x0e"),
        node_feats_irreps=hidden,
        edge_attrs_irreps=all_orders,
        edge_feats_irreps=o3.Irreps("4x0e"),
        target_irreps=(all_orders * WIDTH).sort()[0].simplify(),
        hidden_irreps=hidden,
        avg_num_neighbors=MEAN_NEIGHBOURS,
    )
    h, edges = torch.randn(5, hidden.dim), torch.tensor([[1, 2, 0, 3, 0, 1, 2], [0, 0, 1, 1, 2, 3, 3]])
    vectors = torch.randn(edges.shape[1], 3)
    filters = torch.randn(edges.shape[1], block.conv_tp.weight_numel)
    block.conv_tp_weights = Given(filters)
    harmonics = o3.spherical_harmonics(all_orders, vectors, normalize=True, normalization="component")
    a, _ = block(torch.eye(2)[[0, 1, 0, 1, 0]], h, harmonics, torch.zeros(edges.shape[1], 4), edges)
    paths = [(block.edge_attrs_irreps[i.i_in2].ir.l, hidden[i.i_in1].ir.l, block.conv_tp.irreps_out[i.i_out].ir.l)
             for i in block.conv_tp.instructions]  # fmt: skip
    return {
        "edges": edges,
        "edge_vectors": vectors,
        "h": h,
        "filters": filters,
        "a": a,
        "paths": torch.tensor(paths),
        "up": block.linear_up.weight,
        "down": block.linear.weight,
    }


def product_block() -> dict[str, torch.Tensor]:
    """The linear map after a contraction, and what is skipped: in MACE's layout, on which ours must agree."""
    irreps, out = o3.Irreps(f"{WIDTH}x0e + {WIDTH}x1o + {WIDTH}x2e"), o3.Irreps(f"{WIDTH}x0e + {WIDTH}x1o")
    block = EquivariantProductBasisBlock(irreps, out, 2, num_elements=1)
    a, skipped = torch.randn(4, WIDTH, 9), torch.randn(4, out.dim)
    attributes = torch.ones(4, 1)
    return {
        "product_messages": block.symmetric_contractions(a, attributes),
        "product_skipped": skipped,
        "product_out": block(a, skipped, attributes),
        "product_linear": block.linear.weight,
    }


class Given(torch.nn.Module):
    """Stands for the network of radial functions."""

    def __init__(self, filters: torch.Tensor) -> None:
        super().__init__()
        self.filters = filters

    def forward(self, functions: torch.Tensor) -> torch.Tensor:
        return self.filters


if __name__ == "__main__":
    main()
