"""Options that several verbs share, and what they ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from gfmpot.cli.console import note

if TYPE_CHECKING:
    from ase import Atoms

    from gfmpot.calculators import GFMCalculator

Model = Annotated[
    str, typer.Option("--model", "-m", help="Name of an embedded or cached model, or path of a checkpoint.")
]
Head = Annotated[
    str | None,
    typer.Option("--head", help="One branch (level of theory) instead of their blend; `gfmpot info` lists them."),
]
Precision = Annotated[
    str,
    typer.Option(
        "--precision", metavar="fp32|fp64|bf16|auto", help="Of the network; geometry and sums are always float64."
    ),
]
Tolerance = Annotated[
    tuple[float, float] | None,
    typer.Option(
        "--tolerance",
        metavar="ENERGY FORCE",
        help="Of --precision auto, against fp64 on the first structures: eV/atom, eV/Å.",
        show_default="1e-4 1e-3",
    ),
]
Device = Annotated[
    str | None, typer.Option("--device", help="E.g. cpu or cuda:1.", show_default="a GPU if there is one")
]
Charge = Annotated[int, typer.Option("--charge", help="Total charge of structures that do not state one.")]
Spin = Annotated[
    int | None,
    typer.Option("--spin", help="Multiplicity 2S+1 of structures that state none.", show_default="unspecified"),
]


def build_calculator(
    model: str,
    head: str | None,
    precision: str,
    device: str | None,
    charge: int,
    spin: int | None,
    tolerance: tuple[float, float] | None = None,
) -> GFMCalculator:
    """The calculator that the options describe.

    Raises:
        ValueError: unknown model, head, precision or device, or a tolerance without precision ``auto``.
    """
    from gfmpot.calculators import GFMCalculator

    limits = None if tolerance is None else dict(zip(("energy", "forces"), tolerance, strict=True))
    return GFMCalculator(
        model, head=head, precision=precision, tolerance=limits, device=device, charge=charge, spin=spin
    )


def tell_choice(calculator: GFMCalculator) -> None:
    """Say what ``--precision auto`` has chosen, if that was asked for and anything was evaluated."""
    if calculator.precision_choice is not None:
        note(str(calculator.precision_choice))


def supercell(atoms: Atoms, text: str) -> Atoms:
    """``atoms`` repeated as ``text`` says: ``"2 2 2"``, ``"2x2x2"``, ``"2,2,2"`` or ``"2"``; a stated charge grows.

    Raises:
        ValueError: not one or three positive numbers, repetition without a cell vector, or a stated multiplicity.
    """
    parts = text.replace("x", " ").replace(",", " ").split()
    if len(parts) not in (1, 3) or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise ValueError(f"supercell: expected one or three positive whole numbers such as '2 2 2', got {text!r}")
    times = [int(part) for part in parts] * (3 // len(parts))
    if any(n > 1 and not vector.any() for n, vector in zip(times, atoms.cell.array, strict=True)):
        raise ValueError(f"supercell: cannot repeat along a cell vector of zero length, got {text!r}")
    copies = times[0] * times[1] * times[2]
    if copies > 1 and atoms.info.get("spin") is not None:
        raise ValueError("supercell: the multiplicity of a repeated structure is not known; remove spin from its info")
    repeated = atoms.repeat(times)
    if copies > 1:
        repeated.set_momenta(0 * repeated.positions)  # copies that move alike are no thermal motion
    if "charge" in atoms.info:
        repeated.info["charge"] = atoms.info["charge"] * copies
    return repeated
