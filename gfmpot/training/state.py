"""Resumable state of a run, written by all ranks together and read by any number of them.

A state is a folder ``state/step-000001000`` with a PyTorch distributed checkpoint (DCP) of tensors and ``facts.json``
with everything else. DCP files are pickled: load only what you wrote yourself. A folder appears under its name once it
is complete, so that a kill at any moment leaves the last complete one.
"""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.state_dict_loader import load as load_tensors
from torch.distributed.checkpoint.state_dict_saver import save as save_tensors

log = logging.getLogger(__name__)

KEPT = 2
"""States kept; the one before the last is there in case a file system loses the last."""


class StateFolder:
    """The states of a run."""

    def __init__(self, run: Path) -> None:
        self.folder = run / "state"

    def latest(self) -> Path | None:
        """The newest complete state."""
        complete = sorted(path for path in self.folder.glob("step-*") if (path / "facts.json").is_file())
        return complete[-1] if complete else None

    def save(self, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Write a state; collective."""
        final = self.folder / f"step-{step:09d}"
        partial = final.with_name(f"partial-{final.name}")
        if _first():
            self.folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(partial, ignore_errors=True)
        _wait()
        _quietly(save_tensors, dict(tensors), checkpoint_id=partial, no_dist=not dist.is_initialized())
        if _first():
            (partial / "facts.json").write_text(json.dumps(facts))
            if final.exists():
                shutil.rmtree(final)
            partial.rename(final)
            for old in sorted(self.folder.glob("step-*"))[:-KEPT]:
                shutil.rmtree(old)
        _wait()

    def facts(self, state: Path) -> dict[str, Any]:
        """What a state says beside tensors."""
        loaded: dict[str, Any] = json.loads((state / "facts.json").read_text())
        return loaded

    def load(self, state: Path, tensors: Mapping[str, Tensor]) -> None:
        """Read into ``tensors``, in place; collective.

        Raises:
            ValueError: a damaged state, or one of other tensors.
        """
        try:
            _quietly(load_tensors, dict(tensors), checkpoint_id=state, no_dist=not dist.is_initialized())
        except Exception as error:  # DCP wraps whatever failed on whichever rank
            older = "remove it to go on from the one before it, or from the start"
            raise ValueError(f"{state} cannot be read ({type(error).__name__}: {error}); {older}") from error


def _quietly(function: Any, *arguments: Any, **options: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # notes for developers of PyTorch on storage types and on single processes
        function(*arguments, **options)


def _first() -> bool:
    return not dist.is_initialized() or dist.get_rank() == 0


def _wait() -> None:
    if dist.is_initialized():
        dist.barrier()
