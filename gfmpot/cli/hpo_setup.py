"""What the options of ``gfmpot hpo`` ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from gfmpot.config import did_you_mean, from_yaml

if TYPE_CHECKING:
    from gfmpot.hpo.campaign import Budget
    from gfmpot.hpo.launching import Launcher
    from gfmpot.hpo.protocol import Protocol
    from gfmpot.hpo.space import SearchSpace
    from gfmpot.training.corpus import BranchData


@dataclass(frozen=True)
class Base:
    """The space and the data of a campaign."""

    space: SearchSpace
    branches: tuple[BranchData, ...]

    def protocol(self, **settings: Any) -> Protocol:
        """What trials are; reads the data.

        Raises:
            ValueError: no data, or data or settings that training would refuse.
        """
        from gfmpot.hpo.protocol import Protocol, opened, split_of

        if not self.branches:
            raise ValueError("give --data, stores (.bp) or packed files (.npz), or a --config with branches")
        given = {name: value for name, value in settings.items() if name != "weights" or value is not None}
        made = Protocol(self.space, self.branches, tuple(1 for _ in self.branches), **given)
        made.run(self.space.defaults)  # wrong settings are an error now, not the reason why each trial fails
        branches, sizes = opened(self.branches, split_of(self.space.fixed))
        return replace(made, branches=branches, sizes=sizes)


def check_names(space: str, stopper: str) -> None:
    """Refuse unknown spaces and stoppers."""
    for option, value, known in (("--space", space, ("all", "paper")), ("--stopper", stopper, stoppers())):
        if value not in known:
            raise ValueError(f"{option} {value}{did_you_mean(value, known)}")


def stoppers() -> tuple[str, ...]:
    """Names of the rules."""
    return "none", "median", "halving"


def base_of(
    config: Path | None,
    backbone: str | None,
    files: Sequence[Path],
    fix: Sequence[str],
    ranges: Sequence[str],
    which: str,
) -> Base:
    """Space and data, from a run in YAML and the command line.

    Raises:
        ValueError: neither names a backbone, or a setting is wrong.
        OSError: there is no such file.
    """
    from gfmpot.hpo.protocol import branches_of
    from gfmpot.hpo.settings import dotted, settings_of
    from gfmpot.hpo.space import build_space
    from gfmpot.training.config import TrainConfig

    run = None if config is None else from_yaml(TrainConfig, config)
    named = {} if run is None else dict(run.model.get("backbone", {}))
    name = backbone or named.get("name")
    if name is None:
        from gfmpot.models import available_backbones

        raise ValueError(f"give a --backbone, one of {', '.join(available_backbones())}")
    known, written = settings_of(name), _written(config)
    if name != named.get("name"):
        written.get("model", {}).pop("backbone", None)  # settings of another one
    space = build_space(name, fix, ranges, "paper" if which == "paper" else "all", dotted(written, known))
    if files:
        return Base(space, branches_of(files))
    if run is None or config is None:
        return Base(space, ())
    return Base(space, tuple(_absolute(branch, config.parent) for branch in run.branches))


def _written(config: Path | None) -> dict[str, Any]:
    """The YAML as it stands, so that defaults are not taken for settings."""
    import yaml

    loaded: dict[str, Any] = {} if config is None else yaml.safe_load(config.read_text())
    return loaded


def _absolute(branch: BranchData, folder: Path) -> BranchData:
    return replace(branch, files=tuple(str((folder / file).resolve()) for file in branch.files))


def budget(max_evals: int, max_hours: float | None, stopper: str, seeds: Sequence[Path]) -> Budget:
    """How much is searched.

    Raises:
        ValueError: a seed that is no campaign.
    """
    from gfmpot.hpo.campaign import Budget
    from gfmpot.hpo.folder import CampaignFolder
    from gfmpot.hpo.stopping import Rule

    for seed in seeds:
        CampaignFolder(seed).protocol()
    rules: dict[str, Rule] = {rule: rule for rule in get_args(Rule)}
    return Budget(max_evals, max_hours, rules[stopper], tuple(seeds))


def launcher(prefix: str | None, ranks: int, concurrent: int, minutes: float | None) -> Launcher:
    """How trials are started.

    Raises:
        ValueError: a time limit that is not positive.
    """
    from gfmpot.hpo.launching import Launcher

    if minutes is not None and minutes <= 0:
        raise ValueError(f"--trial-minutes {minutes:g}: expected a positive number")
    return Launcher(prefix, ranks, concurrent, minutes)
