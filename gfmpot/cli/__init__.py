"""The command line: one file per verb, which parses, calls and exits.

Verbs import what they need when they run, so that ``gfmpot --help`` answers at once.
"""

from __future__ import annotations

from typing import Annotated

import typer

from gfmpot import __version__
from gfmpot.cli import (
    add_branch,
    certify,
    data,
    evaluate,
    export,
    finetune,
    hpo,
    info,
    matbench,
    md,
    predict,
    pretrain,
    promote,
    recipes,
    relax,
    report,
    screen,
    train_branch_weights,
)

app = typer.Typer(
    name="gfmpot",
    help="Energies, forces and stress of multi-branch graph foundation models: predict, relax, simulate, train.",
    no_args_is_help=True,
    rich_markup_mode="markdown",  # which folds paragraphs
    pretty_exceptions_enable=False,  # they print every array on the way
    context_settings={"help_option_names": ["-h", "--help"]},
)
VERBS = (
    info.info,
    predict.predict,
    relax.relax,
    screen.screen,
    md.md,
    evaluate.evaluate,
    certify.certify,
    export.export,
    pretrain.pretrain,
    finetune.finetune,
    add_branch.add_branch,
    matbench.matbench,
    train_branch_weights.train_branch_weights,
    hpo.hpo,
    promote.promote,
    report.report,
)
for verb in VERBS:
    app.command()(verb)
app.add_typer(data.app)
app.add_typer(recipes.app)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gfmpot {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it and exit.")
    ] = False,
) -> None:
    """Take the options that come before the verb."""


def main() -> None:
    """What the ``gfmpot`` script runs."""
    app()
