"""``gfmpot report``: what became of a training run or a search, as a page with figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gfmpot.cli.console import clean_errors, console
from gfmpot.cli.output import check_folder


def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folder of a training run or a search; several are compared.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Page to write.", show_default="RUN/report/index.html")
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Show the page in a browser.")] = False,
) -> None:
    """Draw learning curves, phases, throughput, use of devices and parity of RUN into one HTML page.

    The page holds its figures; as PNG files they are beside it: in RUN/report, or with --out FILE.html in a folder
    FILE. A run may still be going on.
    """
    with clean_errors():
        from gfmpot.training.report import write_report

        if out is not None:
            check_folder(out)
        page = write_report(runs, out)
        console().print(str(page), markup=False, soft_wrap=True)
        if show:
            import webbrowser

            webbrowser.open(page.resolve().as_uri())
