"""What a run is: which inputs, which model, which options. Fixed when it begins, so that it can go on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gfmpot.inference.screening.folder import Folder
from gfmpot.inference.screening.formats import Defaults
from gfmpot.inference.screening.inputs import Blocks, Input, find, survey
from gfmpot.inference.screening.tables import whole

ANEW = "choose another folder, or begin anew with --overwrite"


@dataclass(frozen=True)
class Request:
    """What a user wants, in plain JSON types where it is kept."""

    paths: tuple[str, ...]
    """Files and folders, as they were given."""

    options: Mapping[str, Any]
    """Model and options that results depend on."""

    block: int
    """Records of a block."""

    defaults: Defaults


@dataclass(frozen=True)
class Plan:
    """What a run is."""

    paths: tuple[str, ...]
    options: Mapping[str, Any]
    block: int
    inputs: tuple[Input, ...]
    passed_over: Mapping[str, int]
    """Files in folders that are of no known kind, by suffix."""

    def blocks(self) -> Blocks:
        """The work."""
        return Blocks(self.inputs, self.block)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Number of each input by its path."""
        return {item.path: number for number, item in enumerate(self.inputs)}

    def write(self, path: Path) -> None:
        """As JSON."""
        with whole(path) as partial:
            partial.write_text(json.dumps(asdict(self), ensure_ascii=False, indent=1) + "\n")

    @classmethod
    def read(cls, folder: Folder) -> Plan:
        """The plan of a run that has begun.

        Raises:
            FileNotFoundError: there is none.
            ValueError: damaged.
        """
        if not folder.run.is_file():
            raise FileNotFoundError(f"{folder.path} is no screening: it has no {folder.run.name}")
        try:
            found = json.loads(folder.run.read_text())
            inputs = tuple(Input(**{**item, "marks": tuple(item["marks"])}) for item in found["inputs"])
            return cls(**{**found, "paths": tuple(found["paths"]), "inputs": inputs})
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{folder.run} is damaged ({error!r}): {ANEW}") from error


def agreed_plan(folder: Folder, request: Request, *, check_inputs: bool, anew: Plan | None = None) -> Plan:
    """The plan of the run that has begun in the folder, or else a new one. Call it while no other process does.

    Args:
        folder: of the run.
        request: what is wanted.
        check_inputs: whether to see if the inputs are still those of the plan; one process of many is enough.
        anew: takes the place of what has begun.

    Raises:
        ValueError: another run has begun there.
        FileNotFoundError: an input that does not exist.
    """
    if anew is not None or not folder.run.exists():
        plan = anew or new_plan(request)
        plan.write(folder.run)
        return plan
    plan = Plan.read(folder)
    _check_same(folder, {**plan.options, "block_size": plan.block}, {**request.options, "block_size": request.block})
    if plan.paths != request.paths:
        raise ValueError(f"{folder.path} is a screening of {_listed(plan.paths)}, not {_listed(request.paths)}: {ANEW}")
    if check_inputs:
        _check_inputs(folder, plan, request)
    return plan


def new_plan(request: Request) -> Plan:
    """The plan of a run that begins.

    Raises:
        ValueError: nothing of the inputs can be read.
        FileNotFoundError: an input that does not exist.
    """
    files, passed_over = find(map(Path, request.paths))
    inputs = tuple(survey(path, kind, request.defaults, request.block) for path, kind in files)
    if not inputs:
        raise ValueError(f"there is nothing to read in {_listed(request.paths)}")
    if not any(item.records for item in inputs):
        raise ValueError(f"nothing can be read: {inputs[0].problem}")
    return Plan(request.paths, request.options, request.block, inputs, passed_over)


def _check_inputs(folder: Folder, plan: Plan, request: Request) -> None:
    files, _ = find(map(Path, request.paths))
    now, then = {str(path) for path, _ in files}, {item.path for item in plan.inputs}
    changes = {"new": sorted(now - then), "gone": sorted(then - now)}
    told = "; ".join(f"{what}: {_listed(names)}" for what, names in changes.items() if names)
    if told:
        raise ValueError(f"{folder.path} was begun with other files in the inputs ({told}): {ANEW}")
    for item in plan.inputs:
        item.check()


def _check_same(folder: Folder, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    changed = [name for name in dict.fromkeys([*then, *now]) if then.get(name) != now.get(name)]
    if changed:
        told = "; ".join(f"{name} was {_told(then.get(name))}, is {_told(now.get(name))}" for name in changed)
        raise ValueError(f"{folder.path} was begun with other settings ({told}): {ANEW}")


def _told(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
