"""What runs in which dtype: bfloat16 in products with weights, float64 in geometry and sums of energies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gfmpot.graph import AtomGraph, graph_from_atoms
from gfmpot.inference import Predictor
from gfmpot.inference.precision import dense_layers_in, network_dtype
from gfmpot.models import PotentialConfig, preset
from gfmpot.models.backbones.painn import PaiNNConfig
from gfmpot.models.branches import StackedLinear
from gfmpot.models.potential import rebuilt
from gfmpot.models.presets import untrained
from gfmpot.testing import random_potential

PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "_linear_pointwise"}
CASTS = {"_to_copy"}
VIEWS = {"t", "transpose", "permute", "view", "_unsafe_view", "expand", "unsqueeze", "squeeze", "slice", "detach"}


class Recorder(TorchDispatchMode):
    """Names of the operations that see a dtype."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
        if any(tensor.dtype == self.dtype for tensor in tensors):
            self.seen.add(func.overloadpacket.__name__)
        return out


def structures() -> Iterator[Atoms]:
    solid = bulk("Cu", cubic=True) * (2, 1, 1)
    solid.rattle(0.1, seed=1)
    triplet = molecule("CH3CH2OH")
    triplet.info["spin"] = 3
    yield from (solid, molecule("CH3CH2OH"), triplet)


def batch(predictor: Predictor) -> AtomGraph:
    return AtomGraph.batch([graph_from_atoms(atoms, cutoff=predictor.cutoff) for atoms in structures()])


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("readout", ["atomwise", "graph"])
def test_bf16_is_for_products_with_weights_only(readout: str, kernels: bool) -> None:
    """Activations, norms, sums over neighbours and over atoms, and gradients of geometry never see it."""
    config = PotentialConfig(PaiNNConfig(hidden=16, layers=3))
    if readout == "graph":
        config = PotentialConfig(PaiNNConfig(hidden=16, layers=2), preset("lead").head)
    predictor = Predictor(random_potential(config), precision="bf16", device="cpu", kernels=kernels)
    graph = batch(predictor)
    with Recorder(torch.bfloat16) as recorder:
        predictor(graph)
    assert recorder.seen <= PRODUCTS | CASTS | VIEWS, recorder.seen
    assert recorder.seen & PRODUCTS, "nothing was computed in bfloat16"


@pytest.mark.parametrize("precision", ["fp64", "fp32"])
def test_other_precisions_have_no_bf16(precision: str) -> None:
    predictor = Predictor(random_potential(PaiNNConfig(hidden=16, layers=2)), precision=precision, device="cpu")
    with Recorder(torch.bfloat16) as recorder:
        predictor(batch(predictor))
    assert recorder.seen == set()


@pytest.mark.parametrize("precision", ["bf16", "fp32", "fp64"])
def test_geometry_is_float64(precision: str) -> None:
    """Far out, at coordinates that float64 has exactly and float32 has not, nothing changes at all."""
    predictor = Predictor(random_potential(PaiNNConfig(hidden=16, layers=2)), precision=precision, device="cpu")
    near = molecule("CH3CH2OH")
    near.positions = np.round(near.positions * 2**20) / 2**20
    far = near.copy()
    far.translate([2**14, -(2**14), 2**15])
    (here,), (there,) = (predictor(graph_from_atoms(atoms, cutoff=predictor.cutoff)) for atoms in (near, far))
    assert here["forces"].dtype == np.float64
    assert there["energy"] == here["energy"]
    assert np.array_equal(there["forces"], here["forces"])


@pytest.mark.parametrize("precision", ["bf16", "fp32", "fp64"])
def test_sums_of_energies_are_float64(precision: str) -> None:
    """References of 1e7 eV an atom, as of heavy elements with all electrons, cost no digit of what is learnt."""
    potential = random_potential(PaiNNConfig(hidden=16, layers=2))
    energies = []
    for reference in (0.0, 1e7):
        shifted = rebuilt(potential, e0_blend=dict.fromkeys(("H", "C", "O"), reference))
        predictor = Predictor(shifted, precision=precision, device="cpu")
        (results,) = predictor(graph_from_atoms(molecule("CH3CH2OH"), cutoff=predictor.cutoff))
        assert results["energies"].sum() == pytest.approx(results["energy"], rel=1e-15)
        energies.append(results["energy"] - 9 * reference)
    assert energies[0] == pytest.approx(energies[1], abs=1e-7)
    assert energies[0] != 0


def test_dense_layers_are_rounded_and_their_gradients_too() -> None:
    linear, x = nn.Linear(16, 16), torch.randn(5, 16, requires_grad=True)
    with dense_layers_in("bf16"):
        rounded = linear(x)
    assert rounded.dtype == torch.float32
    expected = F.linear(x.bfloat16(), linear.weight.bfloat16(), linear.bias.bfloat16()).float()
    assert torch.equal(rounded, expected)
    assert 1e-4 < (rounded - linear(x)).abs().max() < 0.1
    (gradient,) = torch.autograd.grad(rounded.sum(), x)
    assert torch.allclose(gradient, linear.weight.sum(dim=0).expand_as(x), atol=0.05)


@pytest.mark.parametrize("stack", [None, 3])
def test_narrow_layers_and_float64_are_left_alone(stack: int | None) -> None:
    """The output of the last layer is an energy, which three digits would spoil."""
    for outer, dtype in ((1, torch.float32), (16, torch.float64)):
        layer = nn.Linear(16, outer) if stack is None else StackedLinear(stack, 16, outer)
        x = torch.randn(1, 5, 16, dtype=dtype)
        with dense_layers_in("bf16"):
            inside = layer.to(dtype)(x)
        assert torch.equal(inside, layer(x))


@pytest.mark.filterwarnings("ignore:.* never saw multiplicity 3 in training")  # nor has an untrained model
@pytest.mark.parametrize("name", ["small", "lead"])
def test_bf16_is_finite_and_close(name: str) -> None:
    torch.manual_seed(0)
    potential = random_potential(preset("small")) if name == "small" else untrained(preset("lead"))
    results = {}
    for precision in ("fp64", "bf16"):
        with pytest.warns(UserWarning, match="nearest neighbours") if name == "lead" else nullcontext():
            predictor = Predictor(potential, precision=precision, device="cpu", allow_unsupported=True)
        results[precision] = predictor(batch(predictor))
    for rounded, exact in zip(results["bf16"], results["fp64"], strict=True):
        n, largest = len(exact["forces"]), np.abs(exact["forces"]).max()
        assert abs(rounded["energy"] - exact["energy"]) / n < 0.05
        assert np.abs(rounded["forces"] - exact["forces"]).max() < 0.1 * max(largest, 0.5)
        assert not np.array_equal(rounded["forces"], exact["forces"])


def test_unknown_precision() -> None:
    with pytest.raises(ValueError, match="no precision 'fp23'; did you mean 'fp32'"):
        network_dtype("fp23")
