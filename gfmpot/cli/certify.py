"""``gfmpot certify``: what rounding does to a model's answers, for a paper's methods section."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from gfmpot.atomic import atomic
from gfmpot.cli import options, output
from gfmpot.cli.console import clean_errors, console, note, report
from gfmpot.cli.structures import Failure, Frame, read_all

if TYPE_CHECKING:
    from gfmpot.inference.certificate import Certificate

SUFFIXES = (".json", ".md")


def certify(
    files: Annotated[list[Path], typer.Argument(help="Anything ASE or pymatgen reads; all frames.")],
    precision: Annotated[
        list[str],
        typer.Option(
            "--precision", metavar="fp32|fp64|bf16|auto|all", help="Of the network; may be given more than once."
        ),
    ] = ["fp32"],  # noqa: B006 (typer copies it)
    out: Annotated[
        list[Path] | None,
        typer.Option("--output", "-o", help="Write all numbers (.json) or text for a methods section (.md), or both."),
    ] = None,
    md_steps: Annotated[int, typer.Option(help="Of NVE dynamics for each structure; 0 leaves them out.")] = 200,
    temperature: Annotated[float, typer.Option("--temperature", "-T", help="K, of the dynamics.")] = 300.0,
    model: options.Model = "default",
    head: options.Head = None,
    tolerance: options.Tolerance = None,
    device: options.Device = None,
    charge: options.Charge = 0,
    spin: options.Spin = None,
) -> None:
    """Measure how exact the answers for the structures in FILES are.

    Energy, forces and stress against fp64; forces and stress against finite differences; rotations, translations,
    permutations, batches, supercells; repeatability; drift of the energy in a short NVE run. The exit code is 1 if a
    structure could not be read or answered.
    """
    with clean_errors():
        for path in out or []:
            output.check_output(path, SUFFIXES)
        precisions = _precisions(precision)
        chosen = precisions[0] if precisions else "auto"
        calculator = options.build_calculator(model, head, chosen, device, charge, spin, tolerance)
        entries = list(read_all(files))
        failures = [entry for entry in entries if isinstance(entry, Failure)]
        frames = {str(entry): entry.atoms for entry in entries if isinstance(entry, Frame)}

        def fail(name: str, error: ValueError) -> None:
            failures.append(Failure(name, str(error)))

        if frames:
            certificate = calculator.certify(
                frames, precisions=precisions, md_steps=md_steps, temperature=temperature, on_failure=fail
            )
            options.tell_choice(calculator)
            _publish(certificate, out or [])
        report(failures)


def _precisions(given: list[str]) -> list[str]:
    """Those to measure; none for the one that ``auto`` chooses."""
    from gfmpot.inference import Precision

    if "auto" in given and len(given) > 1:
        raise ValueError(f"--precision auto stands for one precision; give it alone, not with {', '.join(given)}")
    if "all" in given:
        return list(get_args(Precision))
    return [] if given == ["auto"] else list(dict.fromkeys(given))


def _publish(certificate: Certificate, out: list[Path]) -> None:
    if not certificate.measurements:
        return
    console().print(certificate.table(), markup=False, soft_wrap=True)
    written: dict[str, Any] = {".json": certificate.to_json, ".md": certificate.markdown}
    for path in out:
        with atomic(path) as partial:
            partial.write_text(written[path.suffix]())
        note(f"wrote {path}")
