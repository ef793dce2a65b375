"""A program that takes the place of a trial: it reads and writes the same files, and needs no time."""

from __future__ import annotations

PRETENDED = """
import json, os, signal, sys, time
from pathlib import Path

argument = dict(zip(sys.argv, sys.argv[1:]))
spec, out = Path(argument["--spec"]), Path(argument["--out"])
trial = json.loads(spec.read_text())
folder, number, rate = spec.parent, trial["trial"], trial["values"]["optim.learning_rate"]
with (folder.parent.parent / "started.txt").open("a") as file:
    file.write(f"{number}\\n")

def write(**more):
    partial = out.with_suffix(".partial")
    partial.write_text(json.dumps({"trial": number, **more}))
    partial.replace(out)

def loss(epoch=20):
    return 1 + abs(rate - 1e-3) / 1e-3 + 1 / epoch

BODY
"""

COMPLETES = 'write(status="completed", validation_loss=loss(), epochs=2.0, seconds_per_epoch=0.1 * number + 0.1)'
"""What a trial that goes well says; its loss is lowest at a learning rate of 1e-3."""
