"""``gfmpot data``: which datasets there are, what is in a file, conversion to a store, verification of one."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gfmpot.cli.console import clean_errors, console, facts, note, report, table

if TYPE_CHECKING:
    from gfmpot.data.formats.manifest import Manifest, SplitSettings
    from gfmpot.data.source import Source

app = typer.Typer(
    name="data",
    help="Datasets: list what can be read, look into files, convert them for training, verify what was converted.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

SourceName = Annotated[str, typer.Argument(metavar="SOURCE", help="Who reads the files; `gfmpot data list` has them.")]
Energy = Annotated[str | None, typer.Option("--energy-unit", help="Of generic formats, e.g. Hartree.")]
Length = Annotated[str | None, typer.Option("--length-unit", help="Of generic formats, e.g. Bohr.")]
Force = Annotated[str | None, typer.Option("--force-unit", show_default="energy per length", help="E.g. eV/Å.")]
Stress = Annotated[str | None, typer.Option("--stress-unit", show_default="energy per length³", help="E.g. GPa.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Another setting of the source, e.g. group_by=formula."),
]


@app.command("list")
def list_() -> None:
    """Show the datasets and file formats that can be read: Table II of the paper, with the theory of each source."""
    with clean_errors():
        from gfmpot.data.source import available_sources, source_class

        infos = {name: source_class(name).info for name in available_sources()}
        datasets = {name: info for name, info in infos.items() if info.branch}
        table(
            ["source", "branch", "theory", "paper's label", "structures", "compounds", "licence", "format"],
            [
                [
                    name,
                    info.branch,
                    info.theory,
                    info.paper_theory if functional(info.paper_theory) != functional(info.theory) else None,
                    f"{info.paper_structures:,}" if info.paper_structures else None,
                    info.compounds or None,
                    info.licence or None,
                    info.format,
                ]
                for name, info in datasets.items()
            ],
            title="Published datasets; the paper's label where it names another functional than the publishers do",
        )
        table(
            ["source", "reads", "charge and multiplicity"],
            [[name, info.format, info.charge_spin] for name, info in infos.items() if name not in datasets],
            title="Generic formats",
        )


@app.command()
def describe(
    files: Annotated[list[Path], typer.Argument(help="A store, or files and folders of a dataset.")],
    source: Annotated[str | None, typer.Option("--source", help="Who reads the files; not needed for a store.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw the histograms, too, into this .png.")] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Look at this many structures only, of each split.")
    ] = None,
    energy_unit: Energy = None,
    length_unit: Length = None,
    force_unit: Force = None,
    stress_unit: Stress = None,
    settings: Settings = None,
) -> None:
    """Show what is in FILES: counts, elements, and the distributions of energies and forces."""
    with clean_errors():
        from gfmpot.cli import data_describe

        if plot is not None and plot.suffix != ".png":
            raise ValueError(f"--plot writes .png, got {plot}")
        if source is None:
            data_describe.store(files, plot, limit)
        else:
            options = source_options(energy_unit, length_unit, force_unit, stress_unit, settings)
            data_describe.files(build(source, options), files, plot, limit)


@app.command()
def convert(
    source: SourceName,
    inputs: Annotated[list[Path], typer.Argument(metavar="IN...", help="Files and folders of the dataset.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.bp", help="The store to make.")],
    split: Annotated[
        str,
        typer.Option("--split", help="Fractions of train,valid,test; or published, as far as there is such a split."),
    ] = "0.9,0.05,0.05",
    split_seed: Annotated[int, typer.Option("--split-seed", help="Another split of the same fractions.")] = 0,
    workers: Annotated[int, typer.Option("--workers", "-j", min=1, help="Processes.")] = 1,
    quarantine: Annotated[
        Path | None,
        typer.Option("--quarantine", help="Go on without bad structures, and write them here with reasons."),
    ] = None,
    max_force: Annotated[
        float | None, typer.Option("--max-force", help="Leave out structures with a larger force (eV/Å).")
    ] = None,
    min_structures: Annotated[
        int, typer.Option("--min-structures-per-element", min=1, help="Leave out structures with rarer elements.")
    ] = 1,
    branch: Annotated[str | None, typer.Option("--branch", help="Name: dataset-theory, e.g. mine-pbe.")] = None,
    theory: Annotated[str | None, typer.Option("--theory", help="Level of theory of the data.")] = None,
    licence: Annotated[str | None, typer.Option("--licence", help="Of the data.")] = None,
    citation: Annotated[str | None, typer.Option("--citation", help="Of the data.")] = None,
    url: Annotated[str | None, typer.Option("--url", help="Of the data.")] = None,
    energy_unit: Energy = None,
    length_unit: Length = None,
    force_unit: Force = None,
    stress_unit: Stress = None,
    settings: Settings = None,
    allow_implausible: Annotated[
        bool, typer.Option("--allow-implausible", help="Accept distances and forces that look like wrong units.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT.bp if it exists.")] = False,
) -> None:
    """Convert a dataset to an ADIOS2 store that training reads.

    Molecules, trajectories and formulas stay together on one side of the split. What was killed is continued by the
    same command; what is there already is not done again. Bad structures end the conversion unless there is a
    quarantine for them.
    """
    with clean_errors():
        from gfmpot.data import conversion

        options = source_options(energy_unit, length_unit, force_unit, stress_unit, settings)
        reader = build(source, options)
        given = {"branch": branch, "theory": theory, "licence": licence, "citation": citation, "url": url}
        about = conversion.describe(reader, source, inputs, **given)
        start = time.perf_counter()
        with _progress() as progress:
            manifest = conversion.convert(
                reader,
                inputs,
                out,
                about,
                settings=conversion.Settings(split_settings(split, split_seed), max_force, min_structures),
                workers=workers,
                quarantine=quarantine,
                allow_implausible=allow_implausible,
                overwrite=overwrite,
                progress=progress,
            )
        _print_result(manifest, out, quarantine, time.perf_counter() - start)


@app.command()
def verify(store: Annotated[Path, typer.Argument(metavar="OUT.bp", help="A store.")]) -> None:
    """Compare a store with its checksums, and say what is damaged, if anything is."""
    with clean_errors():
        from gfmpot.data.formats.manifest import Manifest
        from gfmpot.data.formats.verify import verify as find_problems

        with _progress() as progress:
            problems = find_problems(store, progress)
        if not problems:
            manifest = Manifest.read(store)
            structures, blocks = sum(manifest.counts.values()), sum(map(len, manifest.blocks.values()))
            console().print(f"{store} is intact: {structures} structures in {blocks} blocks, {manifest.sha256}")
        report(problems)


def functional(theory: str) -> str:
    """The functional in a level of theory or in a label of Table II: ``pbe0`` of ``DFT (PBE0/tight)``."""
    return re.split(r"[\s/(),]", theory.removeprefix("DFT").lstrip(" ("))[0].lower()


def build(name: str, options: dict[str, str]) -> Source:
    """The source called ``name``, with its options."""
    from gfmpot.data.source import build_source

    return build_source(name, **options)


def source_options(
    energy: str | None, length: str | None, force: str | None, stress: str | None, settings: Sequence[str] | None
) -> dict[str, str]:
    """The options that were given, by the names that generic sources know them by.

    Raises:
        ValueError: a setting without ``=``.
    """
    units = {"energy_unit": energy, "length_unit": length, "force_unit": force, "stress_unit": stress}
    options = {name: value for name, value in units.items() if value is not None}
    for setting in settings or ():
        name, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"--set expects NAME=VALUE, got {setting!r}")
        options[name.strip()] = value.strip()
    return options


def split_settings(text: str, seed: int) -> SplitSettings:
    """What ``--split`` says.

    Raises:
        ValueError: not "published" nor three fractions that sum to 1.
    """
    from gfmpot.data.formats.manifest import SplitSettings

    if text == "published":
        return SplitSettings(seed=seed, published=True)
    try:
        train, valid, test = (float(part) for part in text.split(","))
    except ValueError:
        train = valid = test = float("nan")
    if not abs(train + valid + test - 1) < 1e-6:
        raise ValueError(f"--split expects 'published' or three fractions that sum to 1 as 0.9,0.05,0.05, got {text!r}")
    return SplitSettings(valid, test, seed)


def _print_result(manifest: Manifest, out: Path, quarantine: Path | None, seconds: float) -> None:
    rows = [(name, manifest.split_statistics(name)) for name in manifest.counts]
    table(
        ["split", "structures", "atoms", "elements", "with energy", "with forces", "with stress"],
        [
            [name, s.structures, s.atoms, len(s.elements), s.with_energy, s.with_forces, s.with_stress]
            for name, s in rows
        ],
    )
    for kind, count in manifest.left_out.items():
        note(f"left out: {count} ({kind}), written with reasons to {quarantine or out / 'quarantine.jsonl'}", "yellow")
    facts({"store": out, "branch": manifest.branch, "theory": manifest.theory, "SHA-256": manifest.sha256})
    total = sum(manifest.counts.values())
    note(f"{total} structures in {seconds:.1f} s ({total / seconds:.0f} per second)")


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar with rate and time left on standard error, where somebody sees it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns: list[Any] = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    columns += [TextColumn("{task.fields[rate]}"), TimeRemainingColumn()]
    target = console(stderr=True)
    with Progress(*columns, console=target, transient=True, disable=not target.is_terminal) as bar:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total, rate="")
            speed = bar.tasks[bar.task_ids.index(tasks[what])].speed
            bar.update(tasks[what], completed=done, rate=f"{speed:,.0f}/s" if speed else "")

        yield show
