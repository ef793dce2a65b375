"""A search for hyper-parameters: trials at the same time, proposed by DeepHyper, each known by its files.

The files are all that a campaign needs to go on, whatever ended it: finished trials are told to the surrogate, and
those that were half done go on from their last state.
"""

from __future__ import annotations

import fcntl
import logging
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from gfmpot.hpo.folder import CampaignFolder, Trial
from gfmpot.hpo.launching import Launcher, conduct, end_orphan
from gfmpot.hpo.protocol import Protocol
from gfmpot.hpo.records import END, RESULT, TrialResult, TrialSpec, read_record, write_record
from gfmpot.hpo.stopping import Rule, Stopping
from gfmpot.hpo.surrogate import Surrogate, Told
from gfmpot.hpo.workers import Workers, local_workers
from gfmpot.ranks.signals import SIGNALS, Deadline, EndOfJob

log = logging.getLogger(__name__)

TICK = 0.5
"""s between looks at running trials."""


@dataclass(frozen=True)
class Budget:
    """How much is searched; may be another each time that a campaign goes on."""

    evaluations: int = 200
    """Of all times together, failures included."""

    hours: float | None = None
    """Of this time."""

    stopper: Rule = "none"
    seeds: tuple[Path, ...] = ()
    """Folders of campaigns to learn from."""


@dataclass(frozen=True)
class Standing:
    """How far a campaign is."""

    total: int
    running: tuple[int, ...]
    results: tuple[TrialResult, ...]
    seconds_left: float | None
    """Until the end, at the pace so far."""

    @property
    def failed(self) -> int:
        """Trials without a loss."""
        return sum(result.has_failed for result in self.results)

    @property
    def best(self) -> TrialResult | None:
        """The lowest validation loss."""
        losses = [result for result in self.results if not result.has_failed and result.validation_loss is not None]
        return min(losses, key=lambda result: result.validation_loss or 0.0, default=None)


@dataclass
class Campaign:
    """Runs trials until their number or the time is reached, or a signal comes.

    Args:
        protocol: what a trial is.
        budget: how many there are to be.
        launcher: how they are started.
        path: of the folder.
        workers: where they run; here by default.
    """

    protocol: Protocol
    budget: Budget
    launcher: Launcher
    path: Path
    workers: Workers | None = None
    _running: dict[Future[None], tuple[Trial, int]] = field(default_factory=dict)
    _trials: list[Trial] = field(default_factory=list)

    def run(self, watch: Callable[[Standing], None] = lambda standing: None) -> Standing:
        """Search; the same call goes on with what is in the folder.

        Args:
            watch: called with how far it is, about twice a second.

        Raises:
            ValueError: the folder is of another campaign, or in use.
            ImportError: DeepHyper is not installed.
        """
        self._folder = CampaignFolder(self.path)
        self._folder.begin(self.protocol)
        with _alone(self.path), EndOfJob((*SIGNALS, signal.SIGINT)) as end:
            self._open()
            workers = self.workers or local_workers(self.launcher.concurrent)
            deadline = Deadline(self.budget.hours)
            try:
                while not (end.requested or deadline.reached) and self._fill(workers):
                    watch(self.standing())
                    wait(self._running, TICK, FIRST_COMPLETED)
                    self._collect()
            finally:
                self._end_running()
                workers.shutdown()
        watch(self.standing())
        return self.standing()

    def standing(self) -> Standing:
        """How far it is."""
        results = tuple(trial.result for trial in self._trials if trial.result is not None)
        running = tuple(trial.spec.trial for trial, _ in self._running.values())
        own = [t for t in self._trials if t.result is not None and t.result.gathered is not None]
        spent = [t.result.gathered - t.spec.submitted for t in own if t.result and t.result.gathered is not None]
        left = (self.budget.evaluations - len(results)) / self.launcher.concurrent
        return Standing(
            self.budget.evaluations, running, results, left * sum(spent) / len(spent) if spent and left >= 0 else None
        )

    @property
    def _seconds(self) -> float:
        """Of searching, all times together."""
        return self._offset + time.monotonic() - self._begun

    def _open(self) -> None:
        """Read what there is, and teach the surrogate."""
        self._trials = self._folder.trials()
        for trial in self._trials:
            end_orphan(trial.folder, self.launcher.grace)
        self._trials = self._folder.trials()  # an orphan may have finished
        done = [trial for trial in self._trials if trial.result is not None]
        stamps = [t.result.gathered or 0.0 for t in done if t.result is not None] + [
            t.spec.submitted for t in self._trials
        ]
        self._offset, self._begun = max(stamps, default=0.0), time.monotonic()
        self._waiting = [trial for trial in self._trials if trial.result is None]
        space, n = self.protocol.space, len(self._trials)
        initial = min(2 * len(space.parameters) + 1, max(self.launcher.concurrent, self.budget.evaluations // 4, 4))
        self._surrogate = Surrogate(space, self.protocol.seed + n, initial, str(self.path))
        self._stopping = Stopping(self.budget.stopper, self.protocol.epochs)
        for trial in done:
            self._stopping.look(trial.folder)
        told = [(t.spec.values, t.result.objective) for t in done if t.result is not None]
        self._surrogate.tell([*earlier(self.budget.seeds, self.protocol), *told])
        for trial in done:
            if trial.result is not None and trial.result.gathered is None:  # it ended after the campaign was killed
                self._note(trial, trial.result)
        if done or self._waiting:
            log.info("%d trials are there, %d of them half done", n, len(self._waiting))

    def _fill(self, workers: Workers) -> bool:
        """Start what there is room for; False if all is done."""
        free = self.launcher.concurrent - len(self._running)
        open_ = max(0, self.budget.evaluations - len(self._trials))
        ready = self._waiting[:free]
        del self._waiting[:free]
        new = min(free - len(ready), open_)
        if new > 0 and not self._trials:  # what the search has to beat
            ready.append(self._new(self.protocol.space.start))
            new -= 1
        if new > 0:
            ready += [self._new(values) for values in self._surrogate.ask(new)]
        taken = {slot for _, slot in self._running.values()}
        slots = (slot for slot in range(self.launcher.concurrent) if slot not in taken)
        for trial, slot in zip(ready, slots, strict=False):
            (trial.folder / END).unlink(missing_ok=True)
            self._running[workers.submit(conduct, self.launcher, trial.folder, slot)] = trial, slot
        return bool(self._running)

    def _new(self, values: dict[str, object]) -> Trial:
        number = 1 + max((trial.spec.trial for trial in self._trials), default=-1)
        p = self.protocol
        try:
            run, why = p.run(values, self.launcher.ranks), None
        except ValueError as error:  # a combination that the backbone refuses
            run, why = {}, error
        given = (p.fraction, p.seed, p.weights, self.launcher.minutes, p.device, self._seconds)
        trial = self._folder.add(TrialSpec(number, values, run, *given))
        if why is not None:
            write_record(trial.folder / RESULT, TrialResult(number, "failed", f"ValueError: {why}"))
        self._trials.append(trial)
        return trial

    def _collect(self) -> None:
        """Take note of trials that have ended, and of what the others say."""
        told: list[Told] = []
        for future in [future for future in self._running if future.done()]:
            trial, _ = self._running.pop(future)
            if error := future.exception():  # of the worker: a node of a Ray cluster that is lost, for one
                lost = TrialResult(trial.spec.trial, "failed", f"{type(error).__name__}: {error}"[:500])
                write_record(trial.folder / RESULT, lost)
            if (trial.folder / RESULT).is_file():
                result = read_record(TrialResult, trial.folder / RESULT)
                self._note(trial, result)
                told.append((trial.spec.values, result.objective))
        self._surrogate.tell(told)
        for trial, _ in self._running.values():
            if self._stopping.look(trial.folder):
                log.debug("trial %d is being stopped", trial.spec.trial)

    def _note(self, trial: Trial, result: TrialResult) -> None:
        result = replace(result, gathered=self._seconds)
        write_record(trial.folder / RESULT, result)
        place = next(i for i, each in enumerate(self._trials) if each.folder == trial.folder)
        self._trials[place] = replace(trial, result=result)
        self._stopping.look(trial.folder)
        self._folder.write_table(self._trials)
        loss = "no loss" if result.validation_loss is None else f"validation loss {result.validation_loss:.4g}"
        log.info("trial %d %s: %s%s", result.trial, result.status, loss, f" ({result.reason})" if result.reason else "")

    def _end_running(self) -> None:
        """End trials; they save their states, and go on another time."""
        for trial, _ in self._running.values():
            (trial.folder / END).touch()
        wait(self._running)
        if self._running:
            self._collect()


def earlier(folders: Sequence[Path], protocol: Protocol) -> list[Told]:
    """What other campaigns have found out about configurations that lie in the space of this one.

    Raises:
        ValueError: a folder without a campaign.
    """
    told: list[Told] = []
    for path in folders:
        other = CampaignFolder(path)
        theirs = other.protocol()
        settled = {**theirs.space.defaults, **theirs.space.fixed}
        same = theirs.space.backbone == protocol.space.backbone
        known = [({**settled, **t.spec.values}, t.result.objective) for t in other.trials() if t.result is not None]
        fitting = [(values, objective) for values, objective in known if same and protocol.space.contains(values)]
        log.info("%s: %d of %d trials lie in this space", path, len(fitting), len(known))
        if (theirs.weights, theirs.epochs, theirs.fraction) != (protocol.weights, protocol.epochs, protocol.fraction):
            log.warning("%s: its losses are of other weights, epochs or fractions of the data", path)
        told += fitting
    return told


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """A folder that no other process has, where the file system has locks."""
    with (path / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{path} is in use by another process") from None
        except OSError:
            log.warning("%s: the file system has no locks; do not search there twice at the same time", path)
        yield
