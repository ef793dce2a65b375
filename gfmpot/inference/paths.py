"""Which way a network is evaluated: by kernels, by PyTorch's operations, or compiled; and when one follows another."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable
from typing import Any, Literal

import torch

from gfmpot.graph import AtomGraph
from gfmpot.inference.advice import advise
from gfmpot.models import Potential, Prediction
from gfmpot.models.backbone import Evaluator
from gfmpot.models.potential import Joint

Compile = bool | Literal["auto"]
Path = Literal["kernels", "plain", "compiled"]
Predict = Callable[[AtomGraph], Prediction]

COMPILE_AT = 200
"""Evaluation before which ``compile="auto"`` compiles what has no kernels: a fixed one, so that a run repeats."""

SMALLEST = 2
"""Atoms, edges: a compiler takes sizes 0 and 1 for constants, so that smaller graphs are evaluated plainly."""

TOLERANCE = {"fp64": 1e-9, "fp32": 1e-3, "bf16": 0.1}
"""eV/atom, eV/Å, or that share of the largest force: how far a compiled network may be from the plain one."""

_log = logging.getLogger(__name__)


class Paths:
    """The way that is taken now, and what changes it.

    Kernels are taken wherever a backbone has some for the device: they are ready at once and faster than a compiler's
    code. ``compile=True`` compiles at the first evaluation, in their place. ``"auto"`` compiles where there are no
    kernels, at evaluation :data:`COMPILE_AT`, and keeps it if it is faster; what an earlier process has compiled is
    used from the first one on. Compiled code is compared with the other path once, and dropped with a warning if it
    fails or differs.
    """

    def __init__(self, potential: Potential, precision: str, compile: Compile, *, kernels: bool, joint: bool) -> None:
        """``joint`` says whether energies and one gradient are all that is asked for, which is what can be compiled."""
        if compile not in (True, False, "auto"):
            raise ValueError(f"compile must be 'auto', True or False, got {compile!r}")
        self._arguments = (potential, precision, compile, kernels, joint)
        self._potential, self._precision, self._compile = potential, precision, compile
        dense = torch.bfloat16 if precision == "bf16" else potential.dtype
        self.evaluate: Evaluator | None = potential.backbone.kernels(dense) if kernels else None
        self.joint: Joint | None = None
        self._count, self._done = 0, not joint or compile is False or (compile == "auto" and self.evaluate is not None)
        if compile is True and not joint:
            advise("compile=True has no effect on forces_std and skip, which are not compiled")

    def __reduce__(self) -> tuple[Any, ...]:
        """Kernels and compiled code do not travel: a copy begins anew."""
        return _again, self._arguments

    @property
    def name(self) -> Path:
        """The way that is taken now."""
        return "compiled" if self.joint else "kernels" if self.evaluate else "plain"

    def prepare(self, graph: AtomGraph, predict: Predict) -> None:
        """Before an evaluation of ``graph`` by ``predict``: compile if it is time for it."""
        if self._done:
            return
        self._count += 1
        if not (_is_large_enough(graph) and self._is_time()):
            return
        plain = predict(graph)  # what goes wrong here goes wrong without compilation, too, and may not the next time
        if bool(torch.isfinite(plain.energy).all()):
            self._done = True
            self._try(graph, plain, predict)

    def joint_for(self, graph: AtomGraph) -> Joint | None:
        """The compiled network, if there is one that can take the graph."""
        return self.joint if self.joint is not None and _is_large_enough(graph) else None

    def _is_time(self) -> bool:
        if self._compile is True or self._count >= COMPILE_AT:
            return True
        if self._count > 1:
            return False
        from gfmpot.inference.compiled import artifact_path

        return artifact_path(self._potential, self._precision).exists()

    def _try(self, graph: AtomGraph, plain: Prediction, predict: Predict) -> None:
        from gfmpot.inference.compiled import compile_network, forget

        begun = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the compiler's own code: nothing that a user could mend
                self.joint = compile_network(self._potential, self._precision)
            seconds = time.perf_counter() - begun
            problem = self._problem(plain, predict(graph), graph)
            if problem:
                forget(self._potential, self._precision)
        except Exception as error:  # whatever the compiler stack raises, the plain path still works
            problem = f"{type(error).__name__}: {(str(error) or repr(error)).splitlines()[0]}"
        if problem:
            self.joint = None
            advise(f"compiled evaluation is not used: {problem}", RuntimeWarning)
        elif self._compile == "auto" and not self._is_faster(graph, predict):
            self.joint = None
            _log.info(
                "evaluation %d: compiled in %.1f s, which is not faster; %s path", self._count, seconds, self.name
            )
        else:
            _log.info("evaluation %d: compiled path from now on (ready in %.1f s)", self._count, seconds)

    def _problem(self, plain: Prediction, fast: Prediction, graph: AtomGraph) -> str:
        """How the compiled network differs by more than it may; empty if it does not."""
        assert plain.forces is not None
        assert fast.forces is not None
        energy = float(((plain.energy - fast.energy) / graph.atoms_per_structure.to(plain.energy.device)).abs().max())
        forces = float((plain.forces - fast.forces).abs().max())
        allowed = TOLERANCE[self._precision] * max(1.0, float(plain.forces.abs().max()))
        if plain.novelty is not None and fast.novelty is not None:
            unlike = float(((plain.novelty - fast.novelty) / (1 + plain.novelty)).abs().max())
            if not unlike <= TOLERANCE[self._precision]:
                return f"novelty differs by {unlike:.2g} from that of the plain one"
        if energy <= allowed and forces <= allowed:
            return ""
        return f"it differs by {energy:.2g} eV/atom and {forces:.2g} eV/Å from the plain one"

    def _is_faster(self, graph: AtomGraph, predict: Predict) -> bool:
        joint, seconds = self.joint, {}
        for self.joint in (None, joint):  # the compiled one last, so that it stays
            seconds[self.joint] = min(_timed(predict, graph) for _ in range(3))
        return seconds[joint] < seconds[None]


def _is_large_enough(graph: AtomGraph) -> bool:
    return graph.n_atoms >= SMALLEST and graph.n_edges >= SMALLEST


def _again(potential: Potential, precision: str, compile: Compile, kernels: bool, joint: bool) -> Paths:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the original has said it all
        return Paths(potential, precision, compile, kernels=kernels, joint=joint)


def _timed(predict: Predict, graph: AtomGraph) -> float:
    begun = time.perf_counter()
    predict(graph)
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter() - begun
