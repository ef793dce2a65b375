"""A peer in a process of its own: questions go in, answers come out, a line of JSON each.

python benchmarks/peer_workers.py NAME PRECISION THREADS GIBIBYTES

``Worker`` is the asking side. The process runs in the peer's environment (benchmarks/envs/README.md), where gfmpot need
not be. What a package prints goes to standard error, so that standard output has answers only.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from peer_models import PEERS, Peer

HERE = Path(__file__).resolve().parent
Answer = dict[str, Any]


def packed(atoms: Atoms) -> Answer:
    """For JSON; Å and ASE's unit of momentum."""
    fields = {"numbers": atoms.numbers, "positions": atoms.positions, "cell": atoms.cell.array}
    return {name: values.tolist() for name, values in fields.items()} | {"momenta": atoms.get_momenta().tolist()}


def unpacked(fields: Answer) -> Atoms:
    """A crystal."""
    return Atoms(**fields, pbc=True)


def interpreter(name: str) -> Path | None:
    """The Python of a peer's environment, None where it was not made; of gfmpot and EMT this one."""
    if name in ("gfmpot", "emt"):
        return Path(sys.executable)
    python = HERE / "envs" / name / "bin" / "python"
    return python if python.exists() else None


class PeerError(RuntimeError):
    """A peer that failed; the message is its own."""


class Worker:
    """A peer's process; ``cold`` is how long it took from its start to its first forces (s).

    Args:
        name: of the peer.
        precision: ``fp32`` or ``fp64``.
        threads: it computes with.
        memory: GiB that it may take, so that one peer that wants more than there is does not end the others.
        python: of its environment.
        first: the structure of its first forces.

    Raises:
        PeerError: the peer failed.
    """

    def __init__(self, name: str, precision: str, *, threads: int, memory: float, python: Path, first: Atoms) -> None:
        self.label = f"{name} {precision}"
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        command = [str(python), str(HERE / "peer_workers.py"), name, precision, str(threads), str(memory)]
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed in close(); a pipe that nobody reads would fill up)
        begun = time.perf_counter()
        self.process = subprocess.Popen(
            command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said
        )
        try:
            self.forces = np.array(self.ask("forces", [first])["forces"][0])
            self.cold = time.perf_counter() - begun
            self.about = self.ask("about", [])
        except PeerError:
            self.close()
            raise

    def ask(self, question: str, structures: Sequence[Atoms], **details: Any) -> Answer:
        """Waits for the answer, so that one peer computes at a time.

        Raises:
            PeerError: the peer failed at this question, or ended.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        asked = {"do": question, "structures": [packed(atoms) for atoms in structures], **details}
        try:
            print(json.dumps(asked), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise PeerError(f"it ended: {self._last_words()}")
        found: Answer = json.loads(line)
        if "error" in found:
            raise PeerError(found["error"])
        return found

    def close(self) -> None:
        """The end of its input ends it."""
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):  # it may have ended before
                stream.close()
        self.process.wait()
        self._said.close()

    def _last_words(self, lines: int = 5) -> str:
        self.process.wait()
        self._said.seek(0)
        return "\n".join(self._said.read().splitlines()[-lines:])


def serve(peer: Peer, questions: Iterable[str], answers: IO[str]) -> None:
    """Until there are no more questions; a failure is an answer, too."""
    for line in questions:
        question = json.loads(line)
        structures = [unpacked(fields) for fields in question["structures"]]
        try:
            found = answer(peer, question, structures)
        except Exception as error:  # whatever a package raises
            traceback.print_exc()
            found = {"error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
        print(json.dumps(found), file=answers, flush=True)


def answer(peer: Peer, question: Answer, structures: list[Atoms]) -> Answer:
    """What was asked for; of what is timed, seconds by the ``wall`` clock and of the ``cpu``, all threads together."""
    begun = np.array([time.perf_counter(), time.process_time()])
    match question["do"]:
        case "about":
            return peer.about()
        case "edges":
            return {"edges": [peer.edges(one) for one in structures]}
        case "forces":
            return {"forces": [peer.forces(one).tolist() for one in structures]}
        case "dynamics":
            peer.dynamics(structures[0], question["steps"], question["timestep"])
            return _since(begun)
        case "many":
            found = peer.many(structures)
            return {**_since(begun), "forces": [one.tolist() for one in found]}
        case unknown:
            raise ValueError(f"no question {unknown!r}: expected about, edges, forces, dynamics or many")


def _since(begun: NDArray[np.float64]) -> Answer:
    wall, cpu = (time.perf_counter(), time.process_time()) - begun
    return {"wall": float(wall), "cpu": float(cpu)}


def main() -> None:
    name, precision, threads, gibibytes = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_DATA, (round(float(gibibytes) * 2**30),) * 2)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    peer = PEERS[name](precision)
    import torch

    torch.set_num_threads(int(threads))
    serve(peer, sys.stdin, answers)


if __name__ == "__main__":
    main()
