"""An ASE calculator whose potential lives in another environment, such as CHGNet's.

python benchmarks/accuracy_remote.py NAME THREADS

``Remote`` is the asking side; the process answers structures with energy, forces and stress, a line of JSON each. It
runs in the peer's environment (benchmarks/envs/README.md), so nothing but ASE, NumPy and that peer may be needed here.
What a package prints goes to standard error, so that standard output has answers only.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from peer_models import PEERS


class RemoteError(RuntimeError):
    """The peer failed; the message is its own."""


class Remote(Calculator):
    """A peer's calculator in a process of its own.

    If that ends, as for want of memory, the next structure starts another.

    Args:
        name: of the peer in ``peer_models.PEERS``.
        python: of its environment.
        threads: it computes with.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "forces", "stress"]

    def __init__(self, name: str, python: Path, threads: int) -> None:
        super().__init__()
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        command = [str(python), str(Path(__file__).resolve()), name, str(threads)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.start = partial(subprocess.Popen, command, env=environment, text=True, **pipes)
        self.process = self.start()

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Everything at once.

        Raises:
            RemoteError: the peer failed at this structure, or ended.
        """
        super().calculate(atoms, properties, system_changes)
        if self.process.poll() is not None:
            self.close()
            self.process = self.start()
        asked = {name: getattr(self.atoms, name).tolist() for name in ("numbers", "positions", "pbc")}
        try:
            print(json.dumps({**asked, "cell": self.atoms.cell.array.tolist()}), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line.endswith("\n"):  # it ended, maybe in the middle of an answer
            self.process.wait()
            line = ""
        found = json.loads(line or '{"error": "its process ended; start it by hand to see why"}')
        if "error" in found:
            raise RemoteError(found["error"])
        self.results = {name: np.array(value) if name != "energy" else value for name, value in found.items()}
        self.results["free_energy"] = found["energy"]

    def close(self) -> None:
        """The end of its input ends it."""
        with contextlib.suppress(BrokenPipeError):  # it may have ended before
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def serve(calculator: Calculator, questions: Iterable[str], answers: IO[str]) -> None:
    """Until there are no more questions; a failure is an answer, too."""
    for line in questions:
        try:
            found = answer(calculator, Atoms(**json.loads(line)))
        except Exception as error:  # whatever a package raises
            found = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(found), file=answers, flush=True)


def answer(calculator: Calculator, atoms: Atoms) -> dict[str, Any]:
    """eV, eV/Å, and of crystals eV/Å³ in Voigt's order."""
    atoms.calc = calculator
    found = {"energy": float(atoms.get_potential_energy()), "forces": atoms.get_forces().tolist()}
    return {**found, "stress": atoms.get_stress().tolist()} if atoms.pbc.all() else found


def main() -> None:
    name, threads = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    peer = PEERS[name]("fp32")
    import torch

    torch.set_num_threads(int(threads))
    serve(peer.calculator, sys.stdin, answers)


if __name__ == "__main__":
    main()
