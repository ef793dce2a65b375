"""A training run, as written in YAML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from gfmpot.config import to_mapping
from gfmpot.data.sampler import BatchConfig, SamplingConfig
from gfmpot.data.staging import StageConfig
from gfmpot.telemetry import SinkConfig
from gfmpot.training.branch_weights import WeightConfig
from gfmpot.training.corpus import BranchData, SplitConfig
from gfmpot.training.loss import LossConfig
from gfmpot.training.optim import OptimConfig
from gfmpot.training.parallelize import Mode


@dataclass(frozen=True)
class ReadConfig:
    """Where training structures are while training."""

    memory: Literal["files", "ranks"] = "files"
    """``files``: read when needed. ``ranks``: in the memory of groups of ranks, who get them from each other by MPI."""

    width: int | None = None
    """Ranks that hold one copy together; all of them if not given."""

    threads: int = 2
    """Per rank, that build graphs ahead of the loop."""

    kept_graphs: int = 0
    """Per rank: graphs of structures that stay in memory, so that neighbours of small datasets are found once; 5 kB to
    1 MB each, as they have edges."""

    stage: StageConfig = field(default_factory=StageConfig)

    def __post_init__(self) -> None:
        if self.kept_graphs < 0:
            raise ValueError(f"reading: kept_graphs must not be negative, got {self.kept_graphs}; 0 keeps none")


@dataclass(frozen=True)
class TelemetryConfig:
    """What is recorded of a run, and how often."""

    log_every: int = 20
    """Steps between records of the training loss and of times."""

    synchronise: bool = False
    """Wait for the GPU at the ends of timed regions: times are then those of the work itself, and steps are slower."""

    sample_seconds: float = 5.0
    """Between readings of processor, memory and GPUs."""

    sinks: SinkConfig = field(default_factory=SinkConfig)


@dataclass(frozen=True)
class TrainConfig:
    """A whole training run."""

    model: Mapping[str, Any]
    """``backbone: {name: ..., ...}`` and ``head: {...}``, as :class:`gfmpot.models.PotentialConfig`."""

    branches: tuple[BranchData, ...]
    begin_with: str | None = None
    """Name or path of a model of the same architecture whose weights training goes on from; its branches are known by
    their names, and others begin anew."""

    start_share: float = 0.0
    """Share that these weights keep in those that the run ends with: on a straight line between both, less of what was
    right before is lost than of what was learnt is gained (Wortsman et al., CVPR 2022, 7959)."""

    steps: int | None = None
    epochs: float | None = None
    """Length of the run: either of the two. An epoch is what ``sampling`` draws from all branches."""

    batch: BatchConfig = field(default_factory=BatchConfig)
    """Of each rank."""

    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    """Of packed files; stores are split already."""

    branch_weights: WeightConfig = field(default_factory=WeightConfig)
    """How the branches are blended, once they are trained."""

    precision: Literal["fp32", "fp64", "bf16"] = "fp32"
    """Of the network; with ``bf16`` weights stay float32 and dense layers compute in bfloat16."""

    gradients: Literal["exact", "differences"] = "exact"
    """``differences``: those of losses on forces from first derivatives at displaced structures, within a thousandth;
    several times as fast where the backbone has kernels (:mod:`gfmpot.training.differences`)."""

    low_rank: int | None = None
    """Rank by which the backbone's matrices may change (LoRA), for little data; all of it is trained if not given."""

    keep: Literal["last", "best"] = "last"
    """Which weights the run ends with: the last, or those of the lowest validation loss."""

    parallel: Mode = "ddp"
    """What several ranks do: ``ddp`` replicate, ``fsdp`` shard, ``task`` give each branch to ranks of its own."""

    unspecified_spin: float = 0.5
    """Share of neutral singlets trained without their multiplicity, so that leaving it out is a trained input."""

    validation_structures: int = 200
    """Per branch."""

    validate_every: int = 1000
    checkpoint_minutes: float = 5.0
    reading: ReadConfig = field(default_factory=ReadConfig)
    telemetry: TelemetryConfig = field(default_factory=TelemetryConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError(f"give either steps or epochs, got {self.steps} and {self.epochs}")
        if (self.steps or self.epochs or 0) <= 0 or self.validate_every < 1 or self.checkpoint_minutes <= 0:
            raise ValueError("steps or epochs, validate_every and checkpoint_minutes must be positive")
        if self.gradients == "differences" and (self.parallel != "ddp" or self.precision == "bf16"):
            raise ValueError(
                f"gradients: differences need parallel: ddp and fp32 or fp64, got {self.parallel} and {self.precision}"
            )
        if self.optim.method == "muon" and self.parallel == "fsdp":
            raise ValueError("optim: muon needs whole matrices; use parallel: ddp or task, or method: adamw")
        if self.parallel != "ddp" and (self.low_rank is not None or self.optim.frozen):
            raise ValueError(f"low_rank and a frozen backbone need parallel: ddp, got {self.parallel}")
        if self.low_rank is not None and (self.low_rank < 1 or self.optim.frozen or self.optim.method == "muon"):
            raise ValueError(
                "low_rank must be at least 1, with method: adamw and a backbone that is not frozen, got "
                f"{self.low_rank}"
            )
        if not 0 <= self.start_share < 1:
            raise ValueError(f"start_share must be at least 0 and less than 1, got {self.start_share}")
        if self.start_share and (self.begin_with is None or self.low_rank is not None):
            raise ValueError("start_share is a share of the weights of begin_with: give that, and no low_rank")
        if "error_hidden" in self.model:
            raise ValueError("model: error_hidden comes with the estimate of errors, after training; leave it out")
        names = [branch.name for branch in self.branches if branch.name]
        if len(set(names)) != len(names):
            raise ValueError(f"branches must have different names, got {', '.join(names)}")

    def identity(self) -> dict[str, Any]:
        """What must be the same for a run to be resumed; how it is spread over ranks and watched may change."""
        watching = ("telemetry", "checkpoint_minutes", "validate_every", "validation_structures")
        free = ("batch", "parallel", "reading", "branch_weights", *watching)
        settings = {key: value for key, value in to_mapping(self).items() if key not in free}
        if not self.start_share:
            del settings["start_share"]  # runs that were begun before there was one do not have it
        return settings
