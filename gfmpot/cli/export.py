"""``gfmpot export``: a model as one compiled file that runs without gfmpot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gfmpot.cli import options
from gfmpot.cli.console import clean_errors, note


def export(
    out: Annotated[Path, typer.Argument(help="File to write, ending in .pt2.", metavar="OUT.pt2")],
    model: options.Model = "default",
    head: options.Head = None,
    precision: Annotated[
        str, typer.Option("--precision", metavar="fp32|fp64|bf16", help="Of the network; it is fixed in the file.")
    ] = "fp32",
    device: options.Device = None,
) -> None:
    """Compile a model ahead of time, for PyTorch in Python or C++ without gfmpot's code.

    The file takes one structure with its neighbour list and gives energy, forces and stress; its metadata says in what
    order and units. It runs on processors like this one. Compiling takes about a minute and needs a C++ compiler.
    """
    with clean_errors():
        from gfmpot.cli.output import check_folder
        from gfmpot.inference.export import export as write
        from gfmpot.inference.predictor import usable_device
        from gfmpot.models import load

        check_folder(out)
        note("compiling, which takes about a minute ...")
        path = write(load(model), out, head=head, precision=precision, device=usable_device(device))
        note(f"wrote {path}")
