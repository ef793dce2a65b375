"""The training loop: the same for one process and for thousands of ranks; resumable, reproducible, watched."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from gfmpot.config import to_mapping
from gfmpot.data.dataset import Dataset
from gfmpot.data.sampler import Sampler
from gfmpot.models import Potential, PotentialConfig, load, save
from gfmpot.models.checkpoint import find
from gfmpot.ranks.launch import Launch
from gfmpot.ranks.signals import Deadline, EndOfJob
from gfmpot.telemetry import Regions, open_sinks, region_record
from gfmpot.training.beginning import begun_with, fresh, origin_of
from gfmpot.training.config import TrainConfig
from gfmpot.training.corpus import BranchCorpus, read_branch
from gfmpot.training.loader import Batch, Loader, Stream
from gfmpot.training.loss import label_counts
from gfmpot.training.mesh import BranchGroup, allocate_ranks
from gfmpot.training.metrics import Metrics
from gfmpot.training.optim import Optimizer
from gfmpot.training.parallelize import parallelize
from gfmpot.training.position import Position, changed_settings, stream_position
from gfmpot.training.progress import Window, progress_bar, telemetry
from gfmpot.training.state import StateFolder
from gfmpot.training.validation import mean_loss, validation_errors, write_parity

log = logging.getLogger(__name__)


class Trainer:
    """Trains all branches together; ``folder`` keeps states, the log and the model.

    The batches of a step depend on the seed and the position alone, so a resumed run sees what an uninterrupted one
    sees, on whatever number of ranks. All ranks of a job make a trainer and call the same methods.

    Args:
        config: the run.
        data: folder that the files of branches are relative to.
        folder: of the run; one that was stopped goes on.
        launch: this rank's place.
        device: where to compute.
        corpora: data in place of those that ``config`` names.
        potential: what to begin with, one branch for each of ``corpora``, in place of what ``config`` says.

    Raises:
        ValueError: data that do not fit, or a folder of a run with other settings.
    """

    def __init__(
        self,
        config: TrainConfig,
        data: Path,
        folder: Path,
        launch: Launch | None = None,
        device: torch.device | None = None,
        *,
        corpora: Sequence[BranchCorpus] | None = None,
        potential: Potential | None = None,
    ) -> None:
        self.config, self.folder = config, folder
        self.launch, self.device = launch or Launch(), device or torch.device("cpu")
        self._resources = ExitStack()
        self.corpora = corpora or [read_branch(b, self._staged(data, b.files), config.split) for b in config.branches]
        self._trained_on = [self._held(corpus.splits["train"]) for corpus in self.corpora]
        dtype = torch.float64 if config.precision == "fp64" else torch.float32
        self.origin: dict[str, Any] | None = None
        self.potential = (potential or self._fresh_potential()).to(self.device, dtype)
        sizes = [len(d) for d in self._trained_on]
        self._draws = config.sampling.draws(sizes, [corpus.share for corpus in self.corpora])
        self._groups = self._group_ranks()
        self._stream = self._own_stream(sizes)
        parallel = parallelize(
            self.potential,
            config.loss,
            config.parallel,
            self._groups,
            bf16=config.precision == "bf16",
            differences=config.gradients == "differences",
            frozen=config.optim.frozen,
            low_rank=config.low_rank,
        )
        self._optimizer = Optimizer(parallel, config.optim, keep_best=config.keep == "best")
        self._position = Position()
        if config.steps is not None and config.steps < 2 * config.optim.warmup_steps and self.launch.is_main:
            log.warning("the warm-up of %d steps takes most of %d steps", config.optim.warmup_steps, config.steps)
        self.timer = Regions(self.device if config.telemetry.synchronise else None)
        self._states = StateFolder(folder)
        self._start = [tensor.clone() for tensor in self._optimizer.average] if config.start_share else []
        self._resume()

    def close(self) -> None:
        """Give back memory shared with other ranks, and copies of data on this node; collective."""
        self._resources.close()

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def step(self) -> int:
        """Steps made."""
        return self._optimizer.step

    @property
    def done(self) -> float:
        """Share of the run that is done."""
        if self.config.steps is not None:
            return min(1.0, self.step / self.config.steps)
        assert self.config.epochs is not None
        return min(1.0, self.epoch / self.config.epochs)

    @property
    def best_loss(self) -> float:
        """Lowest validation loss so far; infinite unless ``keep: best``."""
        return self._optimizer.best_loss

    @property
    def best_step(self) -> int:
        """After how many steps that was; 0 is what the run began with."""
        return self._optimizer.best_step

    @property
    def epoch(self) -> float:
        """Passes through what ``sampling`` draws."""
        return self._position.structures / int(self._draws.sum())

    @property
    def hours(self) -> float:
        """Of training, restarts not counted."""
        return self._position.seconds / 3600

    def fit(self, *, deadline: Deadline | None = None, end: EndOfJob | None = None) -> bool:
        """Train to the end, or until the deadline or a signal; ``potential`` then has the averaged weights, at the end
        with the share of those that the run began with.

        Returns:
            Whether the run is complete; ``model.safetensors`` is written then.
        """
        written = self.folder / "model.safetensors"
        trained = self.done < 1.0
        if not trained and self.launch.is_main:
            log.info("the run is complete")
        if trained:
            with ExitStack() as resources:
                self._loop(deadline or Deadline(None), end or EndOfJob(), resources)
        complete = self.done >= 1.0
        self._answer_with(self._final() if complete else self._optimizer.average)
        if complete and self.launch.is_main and (trained or not written.exists()):
            save(self.potential, written)
        if dist.is_initialized():
            dist.barrier()
        return complete

    def _final(self) -> Sequence[Tensor]:
        """The weights that the run ends with."""
        trained = self._optimizer.best if self.config.keep == "best" else self._optimizer.average
        share = self.config.start_share
        return [share * a + (1 - share) * b for a, b in zip(self._start, trained, strict=True)] if share else trained

    def validate(self) -> dict[str, Metrics]:
        """Errors of the averaged weights on a fixed part of each branch's validation split."""
        self._answer_with(self._optimizer.average)
        return validation_errors(self.potential, self.corpora, self.config.validation_structures, self.launch)

    def _loop(self, deadline: Deadline, end: EndOfJob, resources: ExitStack) -> None:
        sinks = open_sinks(
            self.config.telemetry.sinks,
            self.folder,
            rank=self.launch.rank,
            local_rank=self.launch.local_rank,
        )
        resources.callback(sinks.close)
        sampler = resources.enter_context(telemetry(self.config.telemetry, self.launch))
        sinks.write(self._start_record())
        window, saved = Window(self.potential.branch_names, self.device), time.monotonic()
        loader = Loader(
            self._stream,
            self.potential.config,
            self.config.batch,
            unspecified_spin=self.config.unspecified_spin,
            threads=self.config.reading.threads,
            kept=self.config.reading.kept_graphs,
        )
        if self.config.keep == "best" and self.step == 0:
            self._validate(sinks)  # what training begins with may be the best
        batches = loader.batches(self._position.stream)
        resources.callback(batches.close)  # type: ignore[attr-defined]
        with progress_bar("training", shown=self.launch.is_main) as bar, self.timer("epoch"):
            stop = False
            while not stop and self.done < 1.0:
                begun = time.perf_counter()
                with self.timer("data"):
                    batch = next(batches)
                due = time.monotonic() - saved > 60 * self.config.checkpoint_minutes
                stop, due = self._train_on(batch, window, stop=end.requested or deadline.reached, due=due)
                self._position.seconds += time.perf_counter() - begun
                bar(self.done, f"epoch {self.epoch:.2f}, {window.rate:.3g} structures/s", window.table)
                if self.step % self.config.telemetry.log_every == 0 or stop or self.done >= 1.0:
                    self._log(sinks, window, sampler)
                if self.step % self.config.validate_every == 0 or self.done >= 1.0:
                    self._validate(sinks)
                if due or stop or self.done >= 1.0:
                    self.save_state()
                    saved = time.monotonic()
        if stop:
            log.info("stopped by %s; the same command goes on", end.signal or "the time limit")

    def _train_on(self, batch: Batch, window: Window, *, stop: bool, due: bool) -> tuple[bool, bool]:
        """One step; returns whether any rank wants to stop, and whether the first wants to save."""
        agreed, pending = self._agree(batch.parts, stop=stop, due=due)
        parts = [part.to(self.device) for part in batch.parts]
        self._optimizer.zero_grad()
        for i, part in enumerate(parts):
            with self._optimizer.parallel.synchronise(i == len(parts) - 1):
                with self.timer("forward"):
                    sums = self._optimizer.parallel.sums(part)
                if i == 0:
                    with self.timer("communication"):
                        if pending is not None:
                            pending.wait()
                    weights = torch.tensor(self.config.loss.weights, dtype=torch.float64, device=self.device)
                    weights = weights / agreed[:3].clamp(min=1.0)
                with self.timer("backward"):
                    (sums.values * weights).sum().backward()  # type: ignore[no-untyped-call]
            window.add(sums)
        with self.timer("optimizer"):
            norm = self._optimizer.advance(self.done)
        structures, atoms, stopping, saving = (int(value) for value in agreed[3:].tolist())
        self._position.stream = batch.next_position
        self._position.structures += structures
        window.step(norm, structures, atoms)
        return stopping > 0, saving > 0

    def _agree(self, parts: Sequence[Any], *, stop: bool, due: bool) -> tuple[Tensor, Any]:
        """Sums over ranks of labels, structures, atoms and wishes, under way while the forward pass runs."""
        counts = torch.stack([label_counts(part) for part in parts]).sum(dim=0)
        sizes = [sum(part.n_structures for part in parts), sum(part.n_atoms for part in parts)]
        wishes = [float(stop), float(due and self.launch.is_main)]
        agreed = torch.cat([counts, torch.tensor([*sizes, *wishes], dtype=torch.float64)]).to(self.device)
        pending = dist.all_reduce(agreed, async_op=True) if dist.is_initialized() else None
        return agreed, pending

    def _log(self, sinks: Any, window: Window, sampler: Any) -> None:
        """A record of the steps since the last; collective."""
        regions = region_record(self.timer.gather(self.timer.interval(), device=self.device))
        record = window.record(self.config.loss)
        sinks.write(
            {
                "kind": "train",
                "step": self.step,
                "epoch": self.epoch,
                "seconds": self._position.seconds,
                "learning_rate": self._optimizer.rate(self.done),
                **record,
                "regions": regions,
            }
        )
        if sampler is not None:
            sinks.write({"kind": "telemetry", "step": self.step, **sampler.interval()})

    def _validate(self, sinks: Any) -> None:
        with self.timer("validate"):
            metrics = self.validate()
        self._optimizer.see(mean_loss(metrics, self.config.loss))
        sinks.write({"kind": "valid", "step": self.step, "branches": metrics})
        if self.done >= 1.0 and self.launch.is_main:
            for record in write_parity(self.potential, self.corpora, self.config.validation_structures, self.folder):
                sinks.write({"step": self.step, **record})
        for name, m in metrics.items():
            if self.launch.is_main:
                forces = f"{1e3 * m['forces_mae']:.0f} meV/Å (norm)" if "forces_mae" in m else "no forces"
                log.info("step %d %s: %.1f meV/atom, %s", self.step, name, 1e3 * m.get("energy_mae", 0.0), forces)

    def save_state(self) -> None:
        """Write everything needed to go on; collective."""
        with self.timer("checkpoint"):
            self._states.save(self.step, self._stored(), self._facts())

    def _stored(self) -> dict[str, Tensor]:
        stored: dict[str, Tensor] = {}
        for kind, tensors in self._optimizer.tensors().items():
            stored |= {f"{kind}/{name}": t for name, t in self._optimizer.parallel.stored(tensors).items()}
        return stored

    def _facts(self) -> dict[str, Any]:
        streams: list[Any] = [None] * self.launch.world
        own = {
            "branches": list(self._stream.branches),
            "position": self._position.stream,
            "length": self._stream.sampler.epoch_length,
        }
        if dist.is_initialized():
            dist.all_gather_object(streams, own)
        else:
            streams = [own]
        return {
            "config": self.config.identity(),
            "data": self._data(),
            "begun with": self._begun_with(),
            "optimizer": self._optimizer.facts(),
            "structures": self._position.structures,
            "seconds": self._position.seconds,
            "streams": [s for i, s in enumerate(streams) if s not in streams[:i]],
        }

    def _resume(self) -> None:
        state = self._states.latest()
        if state is None:
            return
        facts = self._states.facts(state)
        changed = changed_settings(facts["config"], json.loads(json.dumps(self.config.identity())))
        if changed:
            raise ValueError(f"{self.folder} is a run with other settings ({'; '.join(changed)}); use another folder")
        if facts["data"] != self._data():
            raise ValueError(
                f"{self.folder} is a run on other data than are there now: put them back, or use another folder"
            )
        if facts.get("begun with") != self._begun_with():
            raise ValueError(
                f"{self.folder} was begun with another model than {self.config.begin_with} is now, whose unit and "
                "reference energies its weights go by: put that back, or use another folder"
            )
        stored = self._stored()
        self._states.load(state, stored)
        for kind, tensors in self._optimizer.tensors().items():
            own = {n.removeprefix(f"{kind}/"): t for n, t in stored.items() if n.startswith(f"{kind}/")}
            self._optimizer.parallel.restore(own, tensors)
        self._optimizer.resume(facts["optimizer"])
        self._position = Position(
            stream_position(facts["streams"], self._stream), facts["structures"], facts["seconds"]
        )
        log.info("resumed at step %d", self.step)

    def _data(self) -> dict[str, dict[str, str]]:
        """SHA-256 of each branch's files: with other ones, what was trained on could turn up in the test split."""
        return {corpus.info.name: corpus.manifest for corpus in self.corpora}

    def _begun_with(self) -> str | None:
        """Fingerprint of the model that the run began with."""
        return None if self.origin is None else str(self.origin["sha256"])

    def _start_record(self) -> dict[str, Any]:
        return {
            "kind": "start",
            "step": self.step,
            "config": to_mapping(self.config),
            "world": self.launch.world,
            "mode": self.config.parallel,
            "hardware": {"device": str(self.device), "threads": torch.get_num_threads()},
            "version": {"torch": torch.__version__},
            "parameters": sum(p.numel() for p in self.potential.parameters()),
            "groups": [{"ranks": list(g.ranks), "branches": list(g.branches)} for g in self._groups],
        }

    def _fresh_potential(self) -> Potential:
        branches = [corpus.info for corpus in self.corpora]
        model, given = PotentialConfig.from_mapping(self.config.model), (branches, self.config.seed)
        if self.config.begin_with is None:
            return fresh(model, *given)
        file = find(self.config.begin_with)
        before = load(file)
        if self.config.start_share and (new := [b.name for b in branches if b.name not in before.branch_names]):
            raise ValueError(
                f"start_share: {self.config.begin_with} has no weights of {', '.join(new)} to keep a share of"
            )
        self.origin = origin_of(file, before)
        return begun_with(before, model, *given)

    def _answer_with(self, tensors: Sequence[Tensor]) -> None:
        """Put weights, in the order of the parameters, into ``potential``; collective."""
        whole = self._optimizer.parallel.full(tensors)
        own = dict(self.potential.named_parameters())
        with torch.no_grad():
            for name, tensor in whole.items():
                own[name].copy_(tensor)

    def _group_ranks(self) -> list[BranchGroup]:
        if self.config.parallel == "task" and self.launch.world > 1:
            return allocate_ranks(self._draws.tolist(), self.launch.world)
        return [BranchGroup(range(self.launch.world), tuple(range(len(self.corpora))))]

    def _own_stream(self, sizes: Sequence[int]) -> Stream:
        group = next(g for g in self._groups if self.launch.rank in g.ranks)
        own = list(group.branches)
        sampler = Sampler([sizes[b] for b in own], self._draws[own], self.config.seed)
        datasets = [self._trained_on[b] for b in own]
        return Stream(datasets, group.branches, sampler, self.launch.rank - group.ranks.start, len(group.ranks))

    def _staged(self, data: Path, files: Sequence[str]) -> list[Path]:
        """Where ``files`` are read: in ``data``, or in copies on this node."""
        paths = [data / file for file in files]
        stage = self.config.reading.stage
        if stage.scratch is None:
            return paths
        return list(self._resources.enter_context(stage.stage(paths)).paths)

    def _held(self, dataset: Dataset) -> Dataset:
        if self.config.reading.memory == "files":
            return dataset
        from gfmpot.data.formats.distributed import DistributedStore

        return self._resources.enter_context(DistributedStore(dataset, self.config.reading.width))
