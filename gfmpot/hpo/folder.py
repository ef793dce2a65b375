"""The folder of a campaign: ``campaign.json``, ``trials/0007/{spec,result}.json`` and so on, ``results.csv``."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gfmpot.config import to_mapping
from gfmpot.hpo.protocol import Protocol
from gfmpot.hpo.records import RESULT, SPEC, TrialResult, TrialSpec, read_record, write_json, write_record
from gfmpot.training.position import changed_settings

CAMPAIGN = "campaign.json"
MEASURED = (
    *("validation_loss", "epochs", "seconds_per_epoch", "structures_per_second", "peak_memory_gib"),
    *("peak_gpu_memory_gib", "parameters", "joules", "core_seconds", "ranks", "device", "status", "reason"),
)
"""Of results, as columns ``m:...``."""


@dataclass(frozen=True)
class Trial:
    """What a campaign knows of a trial."""

    folder: Path
    spec: TrialSpec
    result: TrialResult | None


class CampaignFolder:
    """Files of a campaign.

    Args:
        path: of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()  # trials may run elsewhere

    def begin(self, protocol: Protocol) -> None:
        """Note what the campaign is, or check that it is still the same.

        Raises:
            ValueError: it has become another one.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        file = self.path / CAMPAIGN
        if not file.is_file():
            write_json(file, to_mapping(protocol))
            return
        before, now = (json.loads(json.dumps(each.comparable())) for each in (self.protocol(), protocol))
        changed = changed_settings(before, now)
        if changed:
            raise ValueError(
                f"{self.path} is a campaign with other settings ({'; '.join(changed[:5])}); use another --folder, and "
                f"--seed-from {self.path} to learn from it"
            )

    def protocol(self) -> Protocol:
        """What the campaign is.

        Raises:
            ValueError: there is no campaign.
        """
        file = self.path / CAMPAIGN
        if not file.is_file():
            raise ValueError(f"{self.path} is no folder of a campaign: it has no {CAMPAIGN}")
        return read_record(Protocol, file)

    def trials(self) -> list[Trial]:
        """In the order of their numbers."""
        folders = sorted(folder for folder in self.path.glob("trials/*") if (folder / SPEC).is_file())
        return [Trial(folder, read_record(TrialSpec, folder / SPEC), _result(folder)) for folder in folders]

    def add(self, spec: TrialSpec) -> Trial:
        """Make the folder of a new trial."""
        folder = self.path / "trials" / f"{spec.trial:04d}"
        folder.mkdir(parents=True)
        write_record(folder / SPEC, spec)
        return Trial(folder, spec, None)

    def write_table(self, trials: Iterable[Trial]) -> None:
        """``results.csv``, in the form of DeepHyper's, which :mod:`gfmpot.training.report_search` reads."""
        rows = [_row(trial.spec, trial.result) for trial in trials if trial.result is not None]
        if not rows:
            return
        columns = list(dict.fromkeys(name for row in rows for name in row))
        partial = self.path / ".results.partial.csv"
        with partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
        partial.replace(self.path / "results.csv")


def _result(folder: Path) -> TrialResult | None:
    return read_record(TrialResult, folder / RESULT) if (folder / RESULT).is_file() else None


def _row(spec: TrialSpec, result: TrialResult) -> dict[str, Any]:
    values: Mapping[str, Any] = spec.values
    errors = {f"m:{name}/{branch}": value for branch, m in result.errors.items() for name, value in m.items()}
    return {
        **{f"p:{name}": json.dumps(v) if isinstance(v, list | tuple) else v for name, v in values.items()},
        "objective": result.objective,
        "job_id": spec.trial,
        "job_status": "DONE",
        "m:timestamp_submit": spec.submitted,
        "m:timestamp_gather": result.gathered,
        **{f"m:{name}": getattr(result, name) for name in MEASURED},
        **errors,
    }
