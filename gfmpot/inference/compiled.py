"""The network compiled by TorchInductor: energies of all branches and the gradient in one piece, kept on disk."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import gfmpot
from gfmpot import __version__
from gfmpot.graph import AtomGraph, edge_vectors
from gfmpot.inference.paths import SMALLEST
from gfmpot.inference.tracing import example_graph, inputs_of, lifted, network, traced
from gfmpot.models import Potential, cache_folder

_log = logging.getLogger(__name__)


class CompiledNetwork:
    """Compiled for any number of atoms, edges and structures: changing sizes compile nothing anew.

    Args:
        artifact: what TorchInductor made.
        names: of the parameters and buffers that it takes as its first inputs.
        potential: whose these are.
    """

    def __init__(self, artifact: Any, names: Sequence[str], potential: Potential) -> None:
        tensors = {**dict(potential.named_parameters()), **dict(potential.named_buffers())}
        self._artifact, self._weights = artifact, [tensors[name].detach() for name in names]
        self._atomwise = potential.atomwise

    def __call__(
        self, initial: Tensor, vectors: Tensor, graph: AtomGraph, weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Features, outputs of all branches and the gradient; see :func:`gfmpot.inference.tracing.network`."""
        missing = max(0, SMALLEST - graph.n_structures)
        padded = torch.cat([weights, weights.new_zeros(missing, weights.shape[1])])  # structures without atoms
        inputs = (tensor.contiguous() for tensor in inputs_of(initial, vectors, graph, padded))
        features, eps, gradient = self._artifact(*self._weights, *inputs)
        return features, eps if self._atomwise else eps[: graph.n_structures], gradient


def compile_network(potential: Potential, precision: str) -> CompiledNetwork:
    """From the disk if an earlier process compiled the same, else by TorchInductor, which takes half a minute.

    Raises:
        Exception: whatever a compiler that is missing, broken or out of its depth raises.
    """
    path = artifact_path(potential, precision)
    if path.exists():
        try:
            return load_compiled(path, potential)
        except Exception as error:  # a file that is cut or of another time is no reason to go without
            _log.warning("%s cannot be used (%s); compiling anew", path, error)
            forget(potential, precision)
    from torch._inductor import standalone_compile

    graph = example_graph(potential.cutoff).to(potential.device)
    weights = torch.full((graph.n_structures, len(potential.branches)), 1.0, dtype=torch.float64).to(potential.device)
    initial = potential.embedding(graph).detach()
    module = traced(network(potential, precision), inputs_of(initial, edge_vectors(graph), graph, weights))
    names = lifted(module, potential)
    inputs = [node.meta["val"] for node in module.graph.nodes if node.op == "placeholder"]
    artifact = standalone_compile(module, inputs, dynamic_shapes="from_graph")
    _keep(artifact, names, path)
    return CompiledNetwork(artifact, names, potential)


def load_compiled(path: Path, potential: Potential) -> CompiledNetwork:
    """What an earlier process compiled of ``potential``."""
    from torch._inductor.standalone_compile import CompiledArtifact

    artifact = CompiledArtifact.load(path=str(path), format="binary")
    return CompiledNetwork(artifact, json.loads(_names_path(path).read_text()), potential)


def artifact_path(potential: Potential, precision: str) -> Path:
    """Where the compiled network is kept: one file per shape of model, precision, versions and kind of processor."""
    device = potential.device
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    shape = (potential.config.to_mapping(), len(potential.branches))
    machine = (str(device), kind, platform.machine(), torch.get_num_threads())  # compilers fix the number of threads
    facts = (shape, precision, *machine, torch.__version__, __version__, _sources())
    return cache_folder() / "compiled" / f"{hashlib.sha256(repr(facts).encode()).hexdigest()[:32]}.bin"


def forget(potential: Potential, precision: str) -> None:
    """Remove what was compiled, if it turned out wrong."""
    path = artifact_path(potential, precision)
    for file in (path, _names_path(path)):
        file.unlink(missing_ok=True)


@functools.cache
def _sources() -> str:
    """Of the code that is traced: a change of it must not meet what was compiled before."""
    package = Path(gfmpot.__file__).parent
    files = [path for folder in ("graph", "models", "inference") for path in sorted((package / folder).rglob("*.py"))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def _names_path(path: Path) -> Path:
    return path.with_suffix(".json")


def _keep(artifact: Any, names: Sequence[str], path: Path) -> None:
    """Write it whole or not at all; a disk that is full or read-only costs the next process its head start only."""
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(names))
        partial.replace(_names_path(path))
        artifact.save(path=str(partial), format="binary")
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        _log.warning("the compiled network is not kept for later: %s", error)
    finally:
        partial.unlink(missing_ok=True)
