"""What every benchmark says about itself: hardware, versions, command."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from gfmpot.atomic import atomic


def environment() -> dict[str, str]:
    """Hardware, versions and commit of a measurement."""
    import ase
    import torch

    import gfmpot

    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "cpu": _cpu(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "ase": ase.__version__,
        "gfmpot": gfmpot.__version__,
        "commit": commit.stdout.strip() or "unknown",
        "command": " ".join(["python", *sys.argv]),
    }


def write(path: Path | None, results: dict[str, Any]) -> None:
    """Results with their environment, as JSON."""
    if path is not None:
        with atomic(path) as partial:
            partial.write_text(json.dumps({"environment": environment(), **results}, indent=1) + "\n")


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
