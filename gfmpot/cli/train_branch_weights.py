"""``gfmpot train-branch-weights``: how the branches of a trained model are blended, learnt anew."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gfmpot.cli.console import clean_errors, console, facts, table
from gfmpot.cli.output import check_checkpoint

if TYPE_CHECKING:
    from gfmpot.models import Potential
    from gfmpot.training.branch_weights import BranchFit, Watch, WeightConfig
    from gfmpot.training.config import TrainConfig
    from gfmpot.training.corpus import BranchCorpus

OTHERS = "the config's branch_weights"


def train_branch_weights(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Name of an embedded or cached model, or path of a checkpoint.")
    ],
    config: Annotated[
        Path, typer.Option("--config", "-c", help="The training run, in YAML: its data, and `branch_weights`.")
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", help="Folder that the files in the config are relative to.", show_default="the config's"
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Checkpoint to write.", show_default="MODEL-weights.safetensors, here"),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher",
            metavar="label|branch",
            help="What the blend should say: the label, or what the branch says that a structure comes from.",
            show_default=OTHERS,
        ),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option("--kind", metavar="mae|mse", help="Absolute or squared errors.", show_default=OTHERS),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", help="Passes over the structures.", show_default=OTHERS)
    ] = None,
    structures: Annotated[
        int | None, typer.Option("--structures", help="Of each branch and split.", show_default=OTHERS)
    ] = None,
    keep_alignment: Annotated[
        bool, typer.Option("--keep-alignment", help="Leave the branches on the energy scale that they have.")
    ] = False,
    device: Annotated[
        str | None, typer.Option("--device", help="cpu, cuda or xpu.", show_default="the best there is")
    ] = None,
) -> None:
    """Fit the blend of MODEL's branches to data; the branches themselves stay as they are.

    First, shifts per element put the branches on one energy scale. Then the network that weighs them by composition is
    trained on the training split, and the epoch that is best on the validation split is kept. The table has errors on
    the validation split: of the blend, and of the single head that does best there. A branch that does not know its
    errors yet learns them, and the others anew.

    Under torchrun, srun or mpiexec, every rank runs this same command, and evaluates a part of the structures.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    with clean_errors():
        from gfmpot.config import from_yaml
        from gfmpot.models import load, save
        from gfmpot.ranks.launch import session
        from gfmpot.training.config import TrainConfig
        from gfmpot.training.finish import blended, estimating

        target = out or Path(f"{Path(model).stem}-weights.safetensors")
        check_checkpoint(target)
        run = from_yaml(TrainConfig, config)
        given = {"teacher": teacher, "kind": kind, "epochs": epochs, "structures": structures}
        settings = _settings(run, given)
        with session(device) as (launch, chosen):
            potential = load(model).to(chosen)
            corpora = corpora_of(run, data or config.parent, potential)
            with _progress(launch.is_main) as watch:
                weighed, fit = blended(potential, corpora, settings, launch, align=not keep_alignment, watch=watch)
            if weighed.errors is not None and not weighed.errors.known.any(dim=0).all():  # a branch was added
                weighed = estimating(weighed, corpora, settings.structures, launch)
            if launch.is_main:
                save(weighed, target)
                _print_fits(fit.branches)
                facts({"held-out loss before": fit.before, "held-out loss": fit.after, "model": target})


def _settings(run: TrainConfig, given: Mapping[str, Any]) -> WeightConfig:
    from gfmpot.config import from_mapping, to_mapping
    from gfmpot.training.branch_weights import WeightConfig

    changes = {key: value for key, value in given.items() if value is not None}
    return from_mapping(WeightConfig, {**to_mapping(run.branch_weights), **changes}, where="branch_weights")


def corpora_of(run: TrainConfig, folder: Path, potential: Potential) -> list[BranchCorpus]:
    """The data of every branch, in the order of the model's branches.

    Raises:
        ValueError: a branch of the model without data, or data of a branch that it does not have.
    """
    from gfmpot.training.corpus import read_branch

    found = {
        corpus.info.name: corpus
        for corpus in (read_branch(b, [folder / file for file in b.files], run.split) for b in run.branches)
    }
    known = potential.branch_names
    if set(found) != set(known):
        missing, foreign = sorted(set(known) - set(found)), sorted(set(found) - set(known))
        raise ValueError(
            f"the config must have the branches of the model, {', '.join(known)}; it lacks "
            f"{', '.join(missing) or 'none'} and has {', '.join(foreign) or 'none'} that the model lacks; names come "
            "from `name:` in the config, or from the store"
        )
    return [found[name] for name in known]


def _print_fits(fits: Mapping[str, BranchFit]) -> None:
    columns = ["branch", "structures", "loss before", "loss", "own weight", "blend meV/atom", "blend meV/Å"]
    rows = [
        [
            *(name, fit.structures, fit.loss_before, fit.loss_after, fit.own_weight),
            *(_milli(fit.energy_mae), _milli(fit.forces_mae)),
            *(fit.best_head, _milli(fit.best_energy_mae), _milli(fit.best_forces_mae)),
        ]
        for name, fit in fits.items()
    ]
    title = "Held-out structures by the branch that they come from"
    table([*columns, "best head", "its meV/atom", "its meV/Å"], rows, title=title)


def _milli(value: float | None) -> str | None:
    return None if value is None else f"{1e3 * value:.1f}"


@contextmanager
def _progress(shown: bool) -> Iterator[Watch]:
    """A bar for each thing that is done, on standard error where somebody sees it."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    target = console(stderr=True)
    columns: list[Any] = [TextColumn("{task.description}"), BarColumn(), TaskProgressColumn()]
    columns += [TextColumn("{task.fields[note]}"), TimeRemainingColumn()]
    with Progress(*columns, console=target, transient=True, disable=not (shown and target.is_terminal)) as bar:
        tasks: dict[str, Any] = {}

        def show(what: str, share: float, note: str) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=1.0, note="")
            bar.update(tasks[what], completed=share, note=note)

        yield show
