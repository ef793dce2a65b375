"""What recipes that label molecules of QM9 by GFN2-xTB share: which molecules, what holds together, and the command."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from ase.data import covalent_radii
from numpy.typing import NDArray
from rich.progress import track
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import pdist, squareform

from gfmpot.data.frame import Frame, Rejected
from gfmpot.finetune.readers.qm9 import QM9
from gfmpot.recipes._labelling import Job, Labelling, Row, command_line

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BOND = 1.25
"""Of the sum of covalent radii: nearer atoms are bonded."""

SOURCE = ("--qm9", "QM9 in any form that `gfmpot finetune qm9` reads")
"""The option of recipes that begin with QM9."""

SMALL = 2000
"""Molecules with which QM9 begins; the small ones are among them."""

META = {
    "theory": "GFN2-xTB (semi-empirical tight binding)",
    "licence": "CC0 (QM9 geometries); labels computed",
    "citation": "Bannwarth et al., J. Chem. Theory Comput. 15, 1652 (2019); Ramakrishnan et al., Sci. Data 1, 140022 "
    "(2014)",
}


def bonds(numbers: Ints, positions: Floats) -> Ints:
    """Pairs (B, 2) of bonded atoms."""
    radii = covalent_radii[numbers]
    near = squareform(pdist(positions)) < BOND * (radii[:, None] + radii)
    return np.argwhere(np.triu(near, 1))


def parts(pairs: Ints, atoms: int) -> Ints:
    """(n,) the number of the part that each atom is in, where pairs (B, 2) hang together."""
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(atoms, atoms))
    found: Ints = connected_components(graph, directed=False)[1]
    return found


def chosen(source: Path, structures: int, seed: int, wanted: Callable[[Frame], bool]) -> list[Frame]:
    """Molecules of QM9, every number of heavy atoms as often as another, so that the few small ones come often."""
    rng, reader = np.random.default_rng(seed), QM9()
    count = reader.count(source)
    candidates = np.union1d(np.arange(min(SMALL, count)), rng.permutation(count)[:structures]).tolist()
    sizes: dict[int, list[Frame]] = {}
    for example in track(reader.read(source, candidates), "reading", total=len(candidates)):
        frame = None if isinstance(example, Rejected) else example.frame
        if frame is not None and wanted(frame):
            sizes.setdefault(int((frame.numbers > 1).sum()), []).append(frame)
    if not sizes:
        raise SystemExit(f"error: {source} has no molecules that could be changed")
    groups = [sizes[size] for size in sorted(sizes)]
    return [groups[k % len(groups)][rng.integers(len(groups[k % len(groups)]))] for k in range(structures)]


def need_tblite() -> None:
    """End the program where there is none."""
    if find_spec("tblite") is None:
        raise SystemExit("error: labels need tblite: pip install tblite")


def run(
    document: str,
    structures: int,
    left_out: str,
    label: Callable[[Job], list[Row]],
    per_part: int,
    about: dict[str, str],
    wanted: Callable[[Frame], bool] = lambda _: True,
) -> None:
    """The command line of such a recipe.

    Args:
        document: of the recipe.
        structures: how many molecules by default.
        left_out: why there may be fewer.
        label: gives the labelled structures of a job.
        per_part: molecules of a job.
        about: name of the file and notes on it.
        wanted: which molecules.
    """
    given = command_line(document, SOURCE, (structures, left_out))
    need_tblite()
    try:
        frames = chosen(given.qm9, given.structures, given.seed, wanted)
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    fingerprint = b"".join(frame.numbers.tobytes() + frame.positions.tobytes() for frame in frames)
    Labelling(label, per_part, META | about).run(given.out, frames, fingerprint, given.seed, given.workers)
