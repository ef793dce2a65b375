"""Campaigns of trials that only pretend: in what order, how often, and what is left of them."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pretended import COMPLETES

from gfmpot.hpo.campaign import Budget, Campaign, Standing, earlier
from gfmpot.hpo.folder import CampaignFolder
from gfmpot.hpo.launching import Launcher
from gfmpot.hpo.protocol import Protocol
from gfmpot.hpo.records import STOP

pytest.importorskip("deephyper")


def started(path: Path) -> list[int]:
    """Trials in the order in which their processes have started."""
    return [int(line) for line in (path / "started.txt").read_text().split()]


def rows(path: Path) -> list[dict[str, str]]:
    with (path / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_many_trials_at_once_with_failures_among_them(
    protocol: Protocol, tmp_path: Path, pretending: Callable[..., Launcher]
) -> None:
    body = f"time.sleep(0.2)\nif number % 5 == 2:\n    sys.exit(1)\n{COMPLETES}"
    seen: list[Standing] = []
    campaign = Campaign(protocol, Budget(12), pretending(body, concurrent=3), tmp_path / "c")
    end = campaign.run(seen.append)
    assert (len(end.results), end.failed, end.running) == (12, 2, ())
    assert sorted(started(tmp_path / "c")) == list(range(12))
    assert max(len(standing.running) for standing in seen) == 3
    assert any(standing.seconds_left for standing in seen)
    table = rows(tmp_path / "c")
    assert [row["job_id"] for row in table] == [str(i) for i in range(12)]
    assert {row["objective"] for row in table if row["m:status"] == "failed"} == {"F_failed"}
    times = [float(row["m:timestamp_gather"]) for row in table]
    assert min(times) > 0
    assert all(float(row["m:timestamp_submit"]) < gathered for row, gathered in zip(table, times, strict=True))
    best = max((row for row in table if row["m:status"] == "completed"), key=lambda row: float(row["objective"]))
    assert end.best is not None
    assert int(best["job_id"]) == end.best.trial


def test_the_search_learns(protocol: Protocol, tmp_path: Path, pretending: Callable[..., Launcher]) -> None:
    """The loss depends on the learning rate alone, and is lowest at 1e-3."""
    end = Campaign(protocol, Budget(24), pretending(COMPLETES, concurrent=2), tmp_path / "c").run()
    rates = [float(row["p:optim.learning_rate"]) for row in rows(tmp_path / "c")]
    late = sum(abs(rate - 1e-3) < 5e-4 for rate in rates[12:])
    assert late > sum(abs(rate - 1e-3) < 5e-4 for rate in rates[:6])
    assert end.best is not None
    assert end.best.validation_loss is not None
    assert end.best.validation_loss < 1.3


def test_killed_and_resumed_without_repetition(
    protocol: Protocol, tmp_path: Path, pretending: Callable[..., Launcher]
) -> None:
    """A SIGKILL in the middle: what was finished stays, what was running is ended and goes on, once each."""
    launcher = pretending(f"time.sleep(0.2 if number < 3 else 30)\n{COMPLETES}", concurrent=2)
    path = tmp_path / "c"
    program = (
        "from pathlib import Path; from gfmpot.hpo.campaign import *; from gfmpot.hpo.records import *\n"
        f"protocol = read_record(Protocol, Path({str(tmp_path / 'protocol.json')!r}))\n"
        f"Campaign(protocol, Budget(6), Launcher({launcher.prefix!r}, concurrent=2), Path({str(path)!r})).run()"
    )
    CampaignFolder(tmp_path / "p").begin(protocol)
    (tmp_path / "p" / "campaign.json").rename(tmp_path / "protocol.json")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", program], env=environment)
    deadline = time.monotonic() + 300
    while not ((path / "started.txt").exists() and len(started(path)) == 5) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.1)
    with pytest.raises(ValueError, match="in use by another process"):
        Campaign(protocol, Budget(6), launcher, path).run()
    process.kill()
    process.wait()
    running = [json.loads(file.read_text())["pid"] for file in path.glob("trials/*/process.json")]
    assert len(running) == 2
    end = Campaign(protocol, Budget(6), pretending(COMPLETES, concurrent=2), path).run()
    assert len(end.results) == 6
    assert json.loads((path / "trials" / "0000" / "spec.json").read_text())["values"] == protocol.space.start
    assert sorted(started(path)) == [0, 1, 2, 3, 3, 4, 4, 5]
    assert not any(Path(f"/proc/{pid}/cmdline").is_file() and _is_trial(pid) for pid in running)
    assert [int(row["job_id"]) for row in rows(path)] == list(range(6))
    stamps = [float(row["m:timestamp_gather"]) for row in rows(path)]
    assert stamps[2] < stamps[5]


def _is_trial(pid: int) -> bool:
    return b"pretended" in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_signal_ends_trials_and_the_same_call_goes_on(
    protocol: Protocol, tmp_path: Path, pretending: Callable[..., Launcher]
) -> None:
    path = tmp_path / "c"
    wait = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\ntime.sleep(0.1 if number < 2 else 60)\n"

    def interrupt() -> None:
        while not ((path / "started.txt").exists() and len(started(path)) >= 4):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    end = Campaign(protocol, Budget(5), pretending(wait + COMPLETES, concurrent=2), path).run()
    thread.join()
    assert len(end.results) == 2
    assert not list(path.glob("trials/*/process.json"))
    assert len(Campaign(protocol, Budget(5), pretending(COMPLETES, concurrent=2), path).run().results) == 5
    assert sorted(started(path)) == [0, 1, 2, 2, 3, 3, 4]


def test_hours_end_it_and_more_trials_may_follow(
    protocol: Protocol, tmp_path: Path, pretending: Callable[..., Launcher]
) -> None:
    slow = pretending(f"time.sleep(0.3)\n{COMPLETES}")
    few = Campaign(protocol, Budget(50, hours=1e-4), slow, tmp_path / "c").run()
    assert 0 <= len(few.results) < 5
    more = Campaign(protocol, Budget(len(few.results) + 2), slow, tmp_path / "c").run()
    assert len(more.results) == len(few.results) + 2


def test_another_protocol_is_refused(protocol: Protocol, tmp_path: Path, pretending: Callable[..., Launcher]) -> None:
    Campaign(protocol, Budget(1), pretending(COMPLETES), tmp_path).run()
    other = replace(protocol, epochs=3, space=replace(protocol.space, parameters=protocol.space.parameters[:-1]))
    with pytest.raises(ValueError, match=r"epochs: 2 → 3; space.parameters.optim.weight_decay: .* → None"):
        Campaign(other, Budget(1), pretending(COMPLETES), tmp_path).run()
    Campaign(replace(protocol, device=None), Budget(1), pretending(COMPLETES), tmp_path).run()


def test_earlier_campaigns_seed_the_surrogate(
    protocol: Protocol, tmp_path: Path, pretending: Callable[..., Launcher], caplog: pytest.LogCaptureFixture
) -> None:
    Campaign(protocol, Budget(10), pretending(COMPLETES, concurrent=2), tmp_path / "a").run()
    wide = protocol.space.parameters
    narrow = tuple(replace(p, high=1e-3) if p.name == "optim.learning_rate" else p for p in wide)
    narrower = replace(protocol, space=replace(protocol.space, parameters=narrow), epochs=3)
    told = earlier([tmp_path / "a"], narrower)
    assert 0 < len(told) < 10
    assert all(values["optim.learning_rate"] <= 1e-3 for values, _ in told)
    assert "other weights, epochs or fractions" in caplog.text
    # a setting that the other campaign had fixed, and this one searches, is known, too
    fixed = replace(protocol.space, parameters=wide[:-1], fixed={**protocol.space.fixed, wide[-1].name: 1e-4})
    CampaignFolder(tmp_path / "a").protocol()
    Campaign(replace(protocol, space=fixed), Budget(2), pretending(COMPLETES), tmp_path / "b").run()
    assert [values[wide[-1].name] for values, _ in earlier([tmp_path / "b"], protocol)] == [1e-4, 1e-4]
    # with as much to learn from, proposals are the surrogate's from the first on
    seeded = Campaign(protocol, Budget(4, seeds=(tmp_path / "a",)), pretending(COMPLETES), tmp_path / "c")
    seeded.run()
    assert seeded._surrogate._search._opt.models
    with pytest.raises(ValueError, match="no folder of a campaign"):
        earlier([tmp_path], protocol)


def test_mpi_is_left_alone() -> None:
    """ASE aborts the process where MPI is loaded and not initialised."""
    code = (
        "import sys; from gfmpot.hpo.surrogate import deephyper; deephyper(); assert 'mpi4py' not in sys.modules\n"
        "from ase.parallel import world; print(world.size)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("1", 0), done.stderr


@pytest.mark.parametrize("rule", ["median", "halving"])
def test_hopeless_trials_are_stopped(
    rule: str, protocol: Protocol, tmp_path: Path, pretending: Callable[..., Launcher]
) -> None:
    """Later trials are worse and worse; each looks for its stop file after an epoch."""
    body = """
for epoch in range(1, 10):
    with (folder / "progress.jsonl").open("a") as file:
        file.write(json.dumps({"epoch": epoch, "loss": number + 1 / epoch, "seconds": epoch, "errors": {}}) + "\\n")
    for _ in range(16):
        time.sleep(0.1)
        if (folder / "stop").exists():
            write(status="stopped", validation_loss=number + 1 / epoch, epochs=epoch)
            sys.exit()
    if number < 5:
        break
write(status="completed", validation_loss=number + 1 / 9, epochs=9)
"""
    longer = replace(protocol, epochs=9)
    budget = Budget(8, stopper="median" if rule == "median" else "halving")
    end = Campaign(longer, budget, pretending(body, concurrent=4), tmp_path / "c").run()
    assert [result.status for result in end.results][5:] == ["stopped"] * 3
    assert all(result.epochs <= 3 for result in end.results[5:])
    assert end.failed == 0
    assert end.results[0].status == "completed"
    # gone on with, it knows what was there
    again = Campaign(longer, replace(budget, evaluations=9), pretending(body), tmp_path / "c").run()
    assert again.results[8].status == "stopped"
    assert (tmp_path / "c" / "trials" / "0008" / STOP).exists()


def test_combinations_that_a_backbone_refuses(
    protocol: Protocol, tmp_path: Path, pretending: Callable[..., Launcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> dict[str, object]:
        raise ValueError("no such combination")

    monkeypatch.setattr(Protocol, "run", refuse)
    end = Campaign(protocol, Budget(3), pretending(COMPLETES), tmp_path / "c").run()
    assert {result.reason for result in end.results} == {"ValueError: no such combination"}
    assert not (tmp_path / "c" / "started.txt").exists()
