"""What ``gfmpot data describe`` prints and draws."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gfmpot.cli.console import console, facts, note, table

if TYPE_CHECKING:
    from gfmpot.data.formats.adios import AdiosStore
    from gfmpot.data.frames import FrameSet
    from gfmpot.data.source import Source
    from gfmpot.data.summary import Summary

BAR = 40
"""Characters of the longest bar."""


def store(paths: Sequence[Path], plot: Path | None, limit: int | None) -> None:
    """Describe one store.

    Raises:
        ValueError: several paths, or files that are no store.
    """
    from gfmpot.data.formats.adios import AdiosStore
    from gfmpot.data.summary import summarise

    if len(paths) != 1 or not paths[0].is_dir():
        raise ValueError(
            f"{', '.join(map(str, paths))}: not one store; for files of a dataset, say who reads them: --source"
        )
    found = AdiosStore(paths[0])
    manifest = found.manifest
    about = {"store": found.path, "branch": manifest.branch, "theory": manifest.theory, "licence": manifest.licence}
    facts(about | {"citation": manifest.citation, "SHA-256": manifest.sha256})
    console().print()
    rows = [(name, found.statistics(name)) for name in found.splits]
    table(
        ["split", "structures", "atoms", "largest", "elements", "with forces", "with stress", "periodic"],
        [
            [name, s.structures, s.atoms, s.largest, len(s.elements), s.with_forces, s.with_stress, s.periodic]
            for name, s in rows
        ],
    )
    if manifest.left_out:
        facts({f"left out: {kind}": count for kind, count in manifest.left_out.items()})
    _show(summarise(_blocks(found, limit)), plot, manifest.e0)


def files(source: Source, paths: Sequence[Path], plot: Path | None, limit: int | None) -> None:
    """Describe the files of a dataset."""
    from gfmpot.data.frame import Rejected
    from gfmpot.data.summary import frames_of, sets_of, summarise

    rejected: list[Rejected] = []
    found = source.files(paths)
    summary = summarise(sets_of(frames_of(source, found), rejected, limit))
    s = summary.statistics
    facts(
        {
            "files": len(found),
            "structures": s.structures,
            "not usable": len(rejected),
            "atoms": s.atoms,
            "largest structure": f"{s.largest} atoms",
            "with energy, forces, stress": f"{s.with_energy}, {s.with_forces}, {s.with_stress}",
            "periodic": s.periodic,
            "charges (multiplicities)": _states(s.states),
        }
    )
    for entry in rejected[:5]:
        note(f"not usable: {entry.where}: {entry.reason}", "yellow")
    if s.structures == 0:
        raise ValueError(f"not one usable structure among {len(rejected)}")
    _show(summary, plot, s.references.fit() if s.references.count else {})


def _blocks(found: AdiosStore, limit: int | None) -> Iterator[FrameSet]:
    for name in found.splits:
        split = found.split(name)
        yield from split.blocks() if limit is None else [split.block(0, min(limit, len(split)))]


def _show(summary: Summary, plot: Path | None, e0: dict[str, float]) -> None:
    s = summary.statistics
    table(
        ["element", "structures", "share", "reference energy (eV)"],
        [[symbol, n, f"{n / s.structures:.1%}", e0.get(symbol)] for symbol, n in s.elements.items()],
    )
    if len(summary.energy_per_atom):
        counts, edges = summary.energies()
        _print_histogram("energy per atom (eV)", "structures", counts, edges, "{:.3f}")
    if s.force_components:
        _print_histogram("force (eV/Å)", "atoms", *_trimmed(summary), "{:.2g}")
        facts({"root mean square force component": f"{s.force_rms:.4f} eV/Å", "largest": f"{s.largest_force:.3f} eV/Å"})
    if plot is not None:
        _draw(summary, plot)
        note(f"wrote {plot}")


def _trimmed(summary: Summary) -> tuple[Any, Any]:
    """The histogram of forces without empty bins at its ends."""
    from gfmpot.data.summary import FORCE_BINS

    filled = summary.forces.nonzero()[0]
    first, last = int(filled[0]), int(filled[-1])
    return summary.forces[first : last + 1], FORCE_BINS[first : last + 2]


def _print_histogram(what: str, of: str, counts: Any, edges: Any, style: str) -> None:
    scale = BAR / max(counts.max(), 1)
    table(
        [what, of, ""],
        [
            [f"{style.format(low)} to {style.format(high)}", int(n), "█" * max(round(n * scale), int(n > 0))]
            for n, low, high in zip(counts, edges[:-1], edges[1:], strict=True)
        ],
    )


def _draw(summary: Summary, path: Path) -> None:
    """Elements, energies and forces, one above the other.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('--plot needs matplotlib: pip install "gfmpot[plot]"') from error
    figure = Figure(figsize=(11, 9), layout="constrained")
    above, middle, below = figure.subplots(3)
    elements = summary.statistics.elements
    above.bar(list(elements), list(elements.values()))
    many = len(elements) > 40
    above.tick_params(axis="x", labelsize=7 if many else 9, rotation=90 if many else 0)
    above.set(yscale="log", xlabel="element", ylabel="structures", xlim=(-1, len(elements)))
    if len(summary.energy_per_atom):
        counts, edges = summary.energies()
        middle.stairs(counts, edges, fill=True)
    middle.set(xlabel="energy per atom (eV)", ylabel="structures")
    if summary.statistics.force_components:
        below.stairs(*_trimmed(summary), fill=True)
    below.set(xscale="log", xlabel="force on an atom (eV/Å)", ylabel="atoms")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _states(states: Iterable[tuple[int, int]]) -> str:
    """Of charges and multiplicities that occur together, e.g. ``0 (1, 3), +1 (2)``."""
    spins: dict[int, list[str]] = {}
    for charge, spin in states:
        spins.setdefault(charge, []).append(str(spin) if spin else "not stated")
    return ", ".join(
        f"{charge:+d} ({', '.join(of)})" if charge else f"0 ({', '.join(of)})" for charge, of in spins.items()
    )
