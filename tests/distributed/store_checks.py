"""Checks of the distributed store, each run by every rank together; prints {check: errors of the ranks} as JSON.

Run as ``mpiexec -n N python -m mpi4py store_checks.py [CHECK...]``.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from mpi4py import MPI
from store_frames import SIZE, frames, same

from gfmpot.data.formats import distributed, ranks
from gfmpot.data.formats.distributed import DistributedStore
from gfmpot.data.formats.rank_memory import WindowTable, mpi_lock
from gfmpot.data.frames import FrameSet

WORLD = MPI.COMM_WORLD


def reads_everything(backend: distributed.Backend) -> None:
    data = frames()
    with DistributedStore(data, backend=backend) as store:
        assert len(store) == SIZE
        np.testing.assert_array_equal(store.atoms_per_structure, data.atoms_per_structure)
        for i in range(SIZE):
            same(store.subset([i]), data.subset([i]))
        same(store.subset(range(SIZE)), data.subset(range(SIZE)))
        shuffled = np.random.default_rng(WORLD.rank).integers(0, SIZE, 200)  # with repetitions
        same(store.subset(shuffled), data.subset(shuffled))
        assert len(store.subset([])) == 0


def check_shared_memory() -> None:
    with mock.patch.object(WindowTable, "_get", side_effect=AssertionError("through MPI, within a node")):
        reads_everything("shared")


def check_windows() -> None:
    reads_everything("windows")


def check_two_nodes() -> None:
    """Ranks in pairs, as if each pair had a node."""
    pairs = mock.patch.object(distributed, "node_of", lambda group: ranks.split(group, group.rank // 2))
    with pairs, mock.patch.object(WindowTable, "_get", autospec=True, side_effect=WindowTable._get) as get:
        reads_everything("shared")
        owners = {piece.owner for call in get.call_args_list for piece in call.args[1]}
        assert owners == {rank for rank in range(WORLD.size) if rank // 2 != WORLD.rank // 2}, owners


def check_ddstore() -> None:
    sys.path.insert(0, str(Path(__file__).parent / "fakes"))
    try:
        import pyddstore

        before = pyddstore.PyDDStore.made
        with mock.patch.object(distributed.ddstore, "LONGEST_READ", 56 * 5):  # reads longer than that are cut
            reads_everything(None)  # chosen by itself
        assert pyddstore.PyDDStore.made == before + 1
    finally:
        del sys.path[0], sys.modules["pyddstore"]


def check_widths() -> None:
    data = frames()
    for width in (w for w in range(1, WORLD.size + 1) if WORLD.size % w == 0):
        with DistributedStore(data, width, backend="windows") as store:
            shards = WORLD.allgather(store.shard)
            for first in range(0, WORLD.size, width):
                assert [i for shard in shards[first : first + width] for i in shard] == list(range(SIZE))
            rows = [int((data.atoms_per_structure[list(s)] + 3).sum()) for s in shards[:width]]
            assert max(rows) - min(rows) <= 2 * 43, rows  # even but for a structure at each end
            same(store.subset(range(SIZE)), data.subset(range(SIZE)))


def check_loads_own_shard_only() -> None:
    data, asked = frames(), []

    class Recorder:
        atoms_per_structure = data.atoms_per_structure

        def __len__(self) -> int:
            return SIZE

        def subset(self, indices: np.ndarray) -> FrameSet:
            asked.extend(indices.tolist())
            return data.subset(indices)

    with mock.patch.object(distributed, "BLOCK", 4), DistributedStore(Recorder()) as store:
        assert asked == list(store.shard)
        same(store.subset(range(SIZE)), data.subset(range(SIZE)))


def check_threads() -> None:
    """Four threads of every rank read at random at the same time."""
    data, failures = frames(), []
    with DistributedStore(data, backend="windows") as store:

        def read(seed: int) -> None:
            rng = np.random.default_rng((WORLD.rank, seed))
            try:
                for _ in range(30):
                    indices = rng.integers(0, SIZE, 20)
                    same(store.subset(indices), data.subset(indices))
            except BaseException:
                failures.append(traceback.format_exc())

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures, failures[0]


def check_thread_level() -> None:
    several = MPI.Query_thread() == MPI.THREAD_MULTIPLE
    assert isinstance(mpi_lock(), contextlib.nullcontext) == several


def check_owner_busy() -> None:
    """A rank that makes no MPI call does not hold up the reads of others."""
    data = frames()
    with DistributedStore(data, backend="windows") as store:
        WORLD.Barrier()
        begin = time.perf_counter()
        if WORLD.rank == 0:
            same(store.subset(range(SIZE)), data.subset(range(SIZE)))
            assert time.perf_counter() - begin < 2.5
        else:
            time.sleep(3)
    assert not [t for t in threading.enumerate() if t.name == "gfmpot-mpi-progress"]


def check_more_ranks_than_structures() -> None:
    for backend in ("shared", "windows"):
        with DistributedStore(frames(1), backend=backend) as store:
            same(store.subset([0, 0]), frames(1).subset([0, 0]))


def check_two_stores() -> None:
    """Closing one leaves the other readable."""
    data, other = frames(), frames(7, seed=1)
    with DistributedStore(data, backend="windows") as store:
        with DistributedStore(other, backend="windows") as second:
            same(second.subset([6, 0]), other.subset([6, 0]))
        same(store.subset(range(SIZE)), data.subset(range(SIZE)))


def raised(kind: type[Exception], call: Callable[[], object], *parts: str) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert all(part in str(caught.value) for part in parts), caught.value


def check_refusals() -> None:
    data, n = frames(), WORLD.size
    raised(ValueError, lambda: DistributedStore(data, n + 1), f"group of {n + 1} ranks", f"the {n} ranks")
    raised(ValueError, lambda: DistributedStore(data, 0), "group of 0")
    raised(ValueError, lambda: DistributedStore(data, backend="windoes"), "did you mean 'windows'")  # type: ignore[arg-type]
    raised(ImportError, lambda: DistributedStore(data, backend="ddstore"), "https://github.com/ORNL/DDStore")
    mine = frames(SIZE - WORLD.rank)
    raised(ValueError, lambda: DistributedStore(mine), "different datasets", "60 structures", "59 structures")
    with mock.patch.object(ranks, "available_memory", return_value=1000):
        raised(MemoryError, lambda: DistributedStore(data), "GiB a rank", "larger width")


def check_little_shared_memory() -> None:
    """A bus error explains nothing, so the log does beforehand."""
    with mock.patch.object(ranks, "shared_room", return_value=100), mock.patch.object(ranks.log, "warning") as warning:
        DistributedStore(frames(), backend="windows").close()
        assert not warning.called
        DistributedStore(frames(), backend="shared").close()
        assert warning.called == (WORLD.rank == 0)
        assert not warning.called or "--shm-size" in warning.call_args.args[0]


def check_failing_shard() -> None:
    """One rank cannot read: all hear of it, and can go on."""
    data = frames()

    class Broken:
        atoms_per_structure = data.atoms_per_structure

        def __len__(self) -> int:
            return SIZE

        def subset(self, indices: np.ndarray) -> FrameSet:
            if SIZE - 1 in indices:
                raise OSError("block 3 is damaged")
            return data.subset(indices)

    raised(OSError, lambda: DistributedStore(Broken()), "block 3 is damaged")
    raised(OSError, lambda: DistributedStore(Broken(), width=1), "block 3 is damaged")


def check_other_sizes_than_stated() -> None:
    data = frames()

    class Lying:
        atoms_per_structure = data.atoms_per_structure + (np.arange(SIZE) == 5)

        def __len__(self) -> int:
            return SIZE

        def subset(self, indices: np.ndarray) -> FrameSet:
            return data.subset(indices)

    raised(Exception, lambda: DistributedStore(Lying()), "other numbers of atoms than the dataset stated")


def check_use() -> None:
    store = DistributedStore(frames())
    raised(IndexError, lambda: store.subset([0, SIZE]), "60", "0 to 59")
    raised(IndexError, lambda: store.subset([-1]), "-1")
    store.close()
    store.close()
    raised(ValueError, lambda: store.subset([0]), "closed")


def check_error_inside() -> None:
    """A rank that fails in the with block does not wait for the others there."""
    store = DistributedStore(frames())
    try:
        with store:
            if WORLD.rank == 0:
                raise KeyError("mine")
    except KeyError:
        assert len(store.subset([1])) == 1
        store.close()


def main(chosen: list[str]) -> None:
    """Run the checks; a check that only one rank leaves with an error is told apart by the launcher's time limit."""
    outcomes = {}
    for name in chosen or [key[6:] for key in globals() if key.startswith("check_")]:
        error = ""
        try:
            globals()[f"check_{name}"]()
        except Exception:
            error = traceback.format_exc()
        outcomes[name] = [text for text in WORLD.allgather(error) if text]
    if WORLD.rank == 0:
        print(json.dumps(outcomes))


if __name__ == "__main__":
    main(sys.argv[1:])
