"""Stores: what was converted comes back, from any thread and process; damage is noticed."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from store_samples import ABOUT, assert_same, harmonic_frames, write_npz

from gfmpot.data.conversion import Settings, convert
from gfmpot.data.formats import adios_writer
from gfmpot.data.formats.adios import AdiosSplit, AdiosStore
from gfmpot.data.formats.adios_reader import SplitReader
from gfmpot.data.formats.manifest import SplitSettings
from gfmpot.data.formats.verify import verify
from gfmpot.data.frames import FrameSet
from gfmpot.data.prefetch import prefetch
from gfmpot.data.source import build_source
from gfmpot.data.statistics import SplitStatistics

adios2 = pytest.importorskip("adios2", reason="the adios2 wheel is not installed")
SIZE = 120
HALVES = Settings(split=SplitSettings(valid=0.2, test=0.2))


@pytest.fixture(scope="module")
def original() -> FrameSet:
    return FrameSet.from_frames(harmonic_frames(SIZE))


@pytest.fixture(scope="module")
def store_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Several blocks per split, as in a large store."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adios_writer, "SMALL_BLOCK", 16)
        patch.setattr(adios_writer, "MOST_BLOCKS", 4)
        source = write_npz(folder / "toy.npz", harmonic_frames(SIZE))
        convert(build_source("npz"), [source], folder / "toy.bp", ABOUT, settings=HALVES)
    return folder / "toy.bp"


@pytest.fixture(params=[1 << 30, 0], ids=["held", "from disk"])
def train(request: pytest.FixtureRequest, store_path: Path) -> AdiosSplit:
    return AdiosStore(store_path, hold=request.param).split("train")


def expected_split(original: FrameSet, store: AdiosStore, name: str) -> FrameSet:
    """Frames of a split in the order of the source; groups say which."""
    groups = set(store.split(name).block(0, store.manifest.counts[name]).group.tolist())
    return original.subset(np.flatnonzero([group in groups for group in original.group]))


def test_every_structure_comes_back_once(store_path: Path, original: FrameSet) -> None:
    store = AdiosStore(store_path)
    sides = {name: expected_split(original, store, name) for name in store.splits}
    assert sum(map(len, sides.values())) == SIZE
    assert len({group for part in sides.values() for group in part.group}) == len(set(original.group))
    for name, part in sides.items():
        split = store.split(name)
        assert len(split) == len(part)
        assert_same(split.block(0, len(split)), part)
        np.testing.assert_array_equal(split.atoms_per_structure, part.atoms_per_structure)


def test_random_and_consecutive_reads(train: AdiosSplit, store_path: Path, original: FrameSet) -> None:
    expected = expected_split(original, AdiosStore(store_path), "train")
    rng = np.random.default_rng(1)
    for indices in (rng.integers(0, len(train), 40), [3], [5, 6, 7, 2, 3, 5, 5], []):
        wanted = np.asarray(indices, dtype=np.int64)
        if len(wanted):
            assert_same(train.subset(wanted), expected.subset(wanted))
        assert len(train.subset(wanted)) == len(wanted)
    joined = FrameSet.join("all", list(train.blocks(7)))
    assert_same(joined, expected)
    for index in (-1, len(train)):
        with pytest.raises(IndexError, match=f"no structure {index} among"):
            train.subset([0, index])


def test_ranks_share_without_gaps(train: AdiosSplit) -> None:
    everything = train.block(0, len(train))
    for strided in (False, True):
        shares = [train.select(rank, 3, strided=strided) for rank in range(3)]
        energies = np.concatenate([share.block(0, len(share)).energy for share in shares])
        assert sorted(energies) == sorted(everything.energy)
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
        np.testing.assert_array_equal(
            np.concatenate([share.atoms_per_structure for share in shares]),
            np.concatenate([share.block(0, len(share)).atoms_per_structure for share in shares]),
        )
    nested = train.select(1, 2).select(1, 2, strided=True)
    np.testing.assert_array_equal(
        nested.subset([0, 1]).energy, everything.energy[[len(train) // 2 + i for i in (1, 3)]]
    )
    with pytest.raises(ValueError, match=r"rank must be in 0 … 1"):
        train.select(2, 2)


def test_threads_and_pickles(train: AdiosSplit) -> None:
    everything = train.block(0, len(train))
    rng = np.random.default_rng(2)
    batches = [rng.integers(0, len(train), 8) for _ in range(40)]
    with ThreadPoolExecutor(4) as pool:
        for batch, found in zip(batches, pool.map(train.subset, batches), strict=True):
            np.testing.assert_array_equal(found.energy, everything.energy[batch])
    copy = pickle.loads(pickle.dumps(train.select(0, 2)))
    assert_same(copy.subset([4, 1]), train.subset([4, 1]))


def _energies_of(split: AdiosSplit, indices: list[int], queue: multiprocessing.Queue) -> None:  # type: ignore[type-arg]
    queue.put(split.subset(indices).energy.tolist())


def test_threads_that_come_first_together_open_the_store_once(
    store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of a loader do; opening twice at once crashed inside ADIOS2."""
    opened, really_open = [], SplitReader._open

    def open_slowly(reader: SplitReader) -> None:
        opened.append(reader.path.name)
        time.sleep(0.05)
        really_open(reader)

    monkeypatch.setattr(SplitReader, "_open", open_slowly)
    splits = [AdiosStore(store_path).split(name) for name in ("train", "valid", "test")]
    together = threading.Barrier(9)

    def read(split: AdiosSplit) -> float:
        together.wait()
        return float(split.subset([0, len(split) - 1]).energy.sum())

    with ThreadPoolExecutor(9) as pool:
        found = list(pool.map(read, 3 * splits))
    assert found[:3] == found[3:6] == found[6:]
    assert sorted(opened) == ["test.bp", "train.bp", "valid.bp"]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_forked_process_opens_its_own_files(train: AdiosSplit) -> None:
    expected = train.subset([7, 0]).energy.tolist()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_energies_of, args=(train, [7, 0], queue))
    child.start()
    assert queue.get(timeout=30) == expected
    child.join()
    assert train.subset([7, 0]).energy.tolist() == expected


def test_prefetch_keeps_order_and_raises_in_place(train: AdiosSplit) -> None:
    batches = [[i, i + 1] for i in range(0, 20, 2)]
    threads = threading.active_count()
    for batch, found in zip(batches, train.prefetch(batches, depth=3), strict=True):
        np.testing.assert_array_equal(found.energy, train.subset(batch).energy)
    ahead = train.prefetch([[0], [10**6], [1]])
    assert len(next(ahead)) == 1
    with pytest.raises(IndexError, match="no structure 1000000"):
        next(ahead)
    early = train.prefetch(batches)
    next(early)
    early.close()
    assert threading.active_count() == threads
    with pytest.raises(ValueError, match="at least 1 batch"):
        prefetch(train, batches, depth=0)


def test_manifest_and_statistics(store_path: Path) -> None:
    store = AdiosStore(store_path)
    assert (store.manifest.branch, store.manifest.theory) == ("toy-harmonic", "harmonic")
    assert (store.manifest.licence, store.manifest.citation) == ("CC0-1.0", "nobody")
    assert store.manifest.e0["C"] == pytest.approx(-1030.0, abs=1.0)
    for name in store.splits:
        split = store.split(name)
        fresh = SplitStatistics.of(split.block(0, len(split)))
        assert store.statistics(name).references.fit() == pytest.approx(fresh.references.fit(), abs=1e-9)
        assert store.statistics(name).elements == fresh.elements
        assert store.statistics(name).force_rms == pytest.approx(fresh.force_rms)
    with pytest.raises(ValueError, match="no validation split; it has train, valid, test"):
        store.split("validation")


def test_bp5_directories_explain_themselves(store_path: Path) -> None:
    with adios2.FileReader(f"{store_path}/train.bp/") as file:
        attributes = file.available_attributes()
        variables = file.available_variables()
        structures = int(attributes["structures"]["Value"].strip("{ }"))
        assert variables["positions"]["Shape"].endswith(", 3")
        assert variables["atom_offsets"]["Shape"] == str(structures + 1)
    assert attributes["units/forces"]["Value"] == '"eV/Å"'
    assert attributes["theory"]["Value"] == '"harmonic"'
    assert "F" in attributes["elements"]["Value"]
    assert {"schema_version", "e0", "e0/elements", "licence", "citation"} <= set(attributes)


def copied(store_path: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(store_path, tmp_path / "copy.bp"))


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(bytes(content))


def test_an_intact_store_verifies(store_path: Path, tmp_path: Path) -> None:
    assert verify(store_path) == []
    assert verify(copied(store_path, tmp_path)) == []


def test_a_flipped_byte_is_found_in_any_file(store_path: Path, tmp_path: Path) -> None:
    store = copied(store_path, tmp_path)
    files = sorted(path for path in store.rglob("*") if path.is_file())
    assert len(files) == 13  # a manifest, and per split one file of data and three of metadata
    for path in files:
        intact = path.read_bytes()
        for position in {0, len(intact) // 3, len(intact) - 1}:
            flip(path, position)
            problems = verify(store)
            assert problems, (path, position)
            assert any(path.relative_to(store).as_posix() in problem for problem in problems)
            path.write_bytes(intact)
    assert verify(store) == []


def test_the_damaged_block_is_named(store_path: Path, tmp_path: Path) -> None:
    store = copied(store_path, tmp_path)
    data = store / "train.bp" / "data.0"
    needle = AdiosStore(store).split("train").subset([20]).energy.tobytes()
    flip(data, data.read_bytes().index(needle))
    first, second = verify(store)
    assert first == "train.bp/data.0: the file's content changed"
    assert second.startswith("train.bp, block 1 (structures ")
    assert second.endswith(", energy: the values changed")


def test_missing_and_truncated_files(store_path: Path, tmp_path: Path) -> None:
    store = copied(store_path, tmp_path)
    data = store / "valid.bp" / "data.0"
    data.write_bytes(data.read_bytes()[:-100])
    assert "valid.bp/data.0: the file has" in verify(store)[0]
    with pytest.raises(ValueError, match=r"valid\.bp/data\.0 is damaged: it has"):
        AdiosStore(store)
    data.unlink()
    assert verify(store)[0] == "valid.bp/data.0: the file is missing"
    assert "all of its" in verify(store)[1]
    with pytest.raises(FileNotFoundError, match="incomplete"):
        AdiosStore(store)


def test_edited_or_foreign_manifests(store_path: Path, tmp_path: Path) -> None:
    store = copied(store_path, tmp_path)
    manifest = store / "manifest.json"
    manifest.write_text(manifest.read_text().replace("CC0-1.0", "CC0-2.0"))
    with pytest.raises(ValueError, match="damaged or was edited"):
        AdiosStore(store)
    manifest.write_text(json.dumps({"schema": 99}))
    with pytest.raises(ValueError, match="schema version 99, but this gfmpot reads 2"):
        AdiosStore(store)
    with pytest.raises(FileNotFoundError, match="is no store of gfmpot"):
        AdiosStore(tmp_path)
