"""What recipes of pretraining share: files to stores, stores to a trained network, and this to a model with its card.

Whatever was stopped goes on when the command is given again.
"""

from __future__ import annotations

import argparse
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from gfmpot.config import from_yaml
from gfmpot.data.conversion import Settings, convert, describe
from gfmpot.data.formats.manifest import SplitSettings
from gfmpot.data.source import build_source
from gfmpot.models import save
from gfmpot.ranks.launch import Launch, place, session
from gfmpot.ranks.signals import Deadline, EndOfJob
from gfmpot.training.config import TrainConfig
from gfmpot.training.finish import finish, write_card
from gfmpot.training.trainer import Trainer


@dataclass(frozen=True)
class Store:
    """Files of one level of theory, who reads them, and how they are split and filtered."""

    name: str
    files: tuple[str, ...]
    """In the data folder."""

    source: str = "npz"
    about: dict[str, str] = field(default_factory=dict)
    """Branch, theory, licence and citation, where the source does not know them."""

    split: tuple[float, float] = (0.05, 0.05)
    """Fractions of groups for validation and test."""

    max_force: float = 100.0
    """eV/Å; structures with a larger one are left out."""

    fewest: int = 20
    """Structures with an element that fewer structures than this have are left out."""

    def lacks(self, data: Path, folder: Path) -> str:
        """Which files are not there, and where to get them; nothing if none is missing, or none is needed any more."""
        missing = [str(data / name) for name in self.files if not (data / name).exists()]
        if not missing or (folder / f"{self.name}.bp").exists():
            return ""
        info = build_source(self.source).info
        return f"{self.name}: no {', '.join(missing)}" + (f"; {info.title} is at {info.url}" if info.url else "")

    def make(self, data: Path, folder: Path) -> None:
        """Convert the files, unless that is done."""
        out = folder / f"{self.name}.bp"
        if out.exists():
            return
        source, files = build_source(self.source), [data / name for name in self.files]
        logging.info("%s: converting %s", out, ", ".join(self.files))
        convert(
            source,
            files,
            out,
            describe(source, self.source, files, **self.about),
            settings=Settings(SplitSettings(*self.split), self.max_force, self.fewest),
            workers=os.cpu_count() or 1,
            quarantine=out.with_suffix(".jsonl"),
        )


def run(recipe: str, name: str, stores: Sequence[Store], description: str, document: str) -> None:
    """The command line of a recipe.

    Args:
        recipe: its file; the settings are in the ``.yaml`` beside it.
        name: of the model.
        stores: what it is trained on.
        description: of the card.
        document: what ``--help`` says.
    """
    parser = argparse.ArgumentParser(description=document, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the datasets")
    parser.add_argument("--config", type=Path, default=Path(recipe).with_suffix(".yaml"), help="settings of the run")
    parser.add_argument("--folder", type=Path, default=Path("runs") / name, help="stores, state, log and model")
    parser.add_argument("--name", default=name, help="under which the model presents itself")
    parser.add_argument("--max-hours", type=float, help="stop after so long, with a state to go on from")
    parser.add_argument("--device", help="cpu or cuda; by default the best there is")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%X")
    config = from_yaml(TrainConfig, given.config)
    folder = given.folder / "stores"
    _make_stores(config, stores, given.data, folder)
    with session(given.device) as (launch, device):
        _train(config, given, folder, description, launch, device)


def _make_stores(config: TrainConfig, stores: Sequence[Store], data: Path, folder: Path) -> None:
    """Those that the settings name and a recipe knows; other ranks wait for the first, however long it takes.

    That is before ranks meet, who would not wait for hours for each other.
    """
    named = {file for branch in config.branches for file in branch.files}
    wanted = [store for store in stores if f"{store.name}.bp" in named]
    if place().is_main:
        if lacks := [text for store in wanted if (text := store.lacks(data, folder))]:
            raise SystemExit("\n".join(["error: files are missing (docs/pretraining.md)", *lacks]))
        folder.mkdir(parents=True, exist_ok=True)
        for store in wanted:
            store.make(data, folder)
    while not all((folder / f"{store.name}.bp").exists() for store in wanted):
        time.sleep(1.0)


def _train(
    config: TrainConfig,
    given: argparse.Namespace,
    stores: Path,
    description: str,
    launch: Launch,
    device: torch.device,
) -> None:
    """Train, align, weigh, measure, save; or stop in time, to go on later."""
    with Trainer(config, stores, given.folder, launch, device) as trainer, EndOfJob() as end:
        if not trainer.fit(deadline=Deadline(given.max_hours), end=end):
            return
        model = finish(trainer, given.name, description)
    if launch.is_main:
        save(model, given.folder / f"{given.name}.safetensors")
        write_card(model, given.folder / f"{given.name}.md")
