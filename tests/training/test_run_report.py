"""The report of runs and searches."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")
from gfmpot.telemetry import JsonLines
from gfmpot.training.report import write_report
from gfmpot.training.report_page import table
from gfmpot.training.report_parity import read_pairs
from gfmpot.training.report_phases import phases, region_rows
from gfmpot.training.report_run import read_run, thinned
from gfmpot.training.report_search import read_search
from gfmpot.training.report_style import short, tidy

BRANCHES = ("solids-pbe", "molecules-pbe0")
Record = dict[str, Any]


def train(step: int, loss: float = 1.0, **more: Any) -> Record:
    errors = {"energy": dict.fromkeys(BRANCHES, 0.5 / step), "forces": dict.fromkeys(BRANCHES, 2.0 / step)}
    speed = {"structures_per_second": 100.0, "atoms_per_second": 2000.0, "learning_rate": 1e-3, "gradient_norm": 2.0}
    regions = {
        "epoch": {"mean": 10.0, "min": 9.0, "max": 11.0, "count": 0},
        "epoch/data": {"mean": 1.0, "min": 0.5, "max": 1.5, "count": 20},
        "epoch/forward": {"mean": 6.0, "min": 6.0, "max": 6.0, "count": 20},
        "epoch/validate": {"mean": 2.0, "min": 2.0, "max": 2.0, "count": 2},
        "epoch/validate/forward": {"mean": 1.5, "min": 1.5, "max": 1.5, "count": 2},
    }
    place = {"kind": "train", "step": step, "time": 1e9 + step, "seconds": 2.0 * step, "epoch": step / 50, "loss": loss}
    return {**place, **errors, **speed, "regions": regions, **more}


def valid(step: int, energy: float = 0.02) -> Record:
    errors = {"energy_mae": energy, "forces_mae": 0.1, "stress_mae": 0.001}
    branches = {"solids-pbe": errors, "molecules-pbe0": {**errors, "stress_mae": None}}
    return {"kind": "valid", "step": step, "time": 1e9 + step, "branches": branches}


def start(step: int, **more: Any) -> Record:
    config = {"steps": 100, "optim": {"learning_rate": 1e-3, "note": "<b>&"}}
    place = {"kind": "start", "step": step, "time": 1e9 + step, "world": 2, "mode": "ddp", "version": "9.9"}
    return {**place, "config": config, "hardware": {"device": "CPU", "cores": 4}, **more}


def telemetry(step: int, gpus: int = 2) -> Record:
    host = {"cpu_percent": 100.0, "rss_gib": 2.0, "cpu_power_w": None, "cpu_energy_j": 1.8e6}
    gpu = {"vendor": "nvidia", "name": "H200", "power_w": 500.0, "memory_gib": None, "energy_j": 3.6e6}
    listed = [{**gpu, "index": i} for i in range(gpus)]
    return {"kind": "telemetry", "time": 1e9 + step, **host, "gpu": listed, "absent": {"amd": "no such module"}}


def write(folder: Path, *records: Record) -> Path:
    folder.mkdir(exist_ok=True)
    log = JsonLines(folder / "log.jsonl")
    for record in records:
        log.write(record)
    log.close()
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that was killed at step 70 and went on from step 50."""
    before = [start(0), *(train(step) for step in range(10, 71, 10)), valid(20, 0.01), valid(60, 0.5)]
    after = [start(50), *(train(step, loss=9.0) for step in range(60, 101, 10)), valid(100)]
    folder = write(
        tmp_path / "run", *sorted(before, key=lambda r: r["step"]), telemetry(30), *after, telemetry(90, gpus=6)
    )
    (folder / "parity").mkdir()
    rng = np.random.default_rng(0)
    energy, forces = rng.normal(size=50), rng.normal(size=(4000, 3))
    pairs = {"energy_reference": energy, "energy_predicted": energy + 0.01, "forces_reference": forces}
    np.savez(folder / "parity" / "solids.npz", **pairs, forces_predicted=forces + 0.1)
    log = {"kind": "parity", "time": 1e9}
    return write(
        folder,
        {**log, "branch": "solids-pbe", "file": "parity/solids.npz"},
        {**log, "branch": "molecules-pbe0", "file": "parity/none.npz"},
    )


class Page(HTMLParser):
    """Checks that tags are closed; keeps texts and images."""

    VOID = ("meta", "img")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[bytes] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.ids += [value for key, value in attributes if key == "id" and value]
        self.links += [value for key, value in attributes if key == "href" and value]
        if tag == "img":
            kind, _, data = (found["src"] or "").partition(",")
            assert kind == "data:image/png;base64"
            self.images.append(base64.b64decode(data))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += f"|{data}"


def test_one_page_holds_everything(run: Path) -> None:
    out = write_report([run])
    assert out == run / "report" / "index.html"
    page = Page(out.read_text())
    saved = sorted(path.stem for path in (run / "report").glob("*.png"))
    assert saved == [
        "learning-energy",
        "learning-forces",
        "learning-stress",
        "optimisation",
        "parity-solids-pbe",
        "phases",
        "resources",
        "throughput",
    ]
    files = {(run / "report" / f"{name}.png").read_bytes() for name in saved}
    assert files == set(page.images)
    assert all(image.startswith(b"\x89PNG") for image in page.images)
    assert (
        [link[1:] for link in page.links]
        == page.ids
        == [
            "overview",
            "learning-curves",
            "time",
            "resources",
            "parity",
            "configuration",
        ]
    )
    assert not re.search(r"https?://", out.read_text())


def test_what_the_page_says(run: Path) -> None:
    text = Page(write_report([run]).read_text()).text
    for expected in (
        "|steps|100|",
        "|training time|3.3 min|",
        "|starts|2|",
        "|ranks|2|",
        "|hardware|device CPU, cores 4|",
        "|gfmpot|9.9|",
        "|solids-pbe|20 (10)|100 (100)|1 (1)|",
        "|molecules-pbe0|20 (10)|100 (100)|–|",
        "|GPUs|H200|",
        "|energy of the GPUs|8 kWh|",
        "|energy of the processors|1 kWh|",
        "|not read: amd|no such module|",
    ):
        assert expected in text
    assert "none.npz" in text  # of which there is no figure
    assert "note: <b>&" in text  # escaped on the page
    assert "|\u2003\u2003forward|20|15|15.0%|150|15|15|1|" in text  # within validation


def test_what_a_restart_repeats_counts_once(run: Path) -> None:
    read = read_run(run)
    steps, loss = read.curve("loss")
    assert steps.tolist() == list(range(10, 101, 10))
    assert loss.tolist() == [1.0] * 5 + [9.0] * 5
    assert [record["step"] for record in read.valid] == [20, 100]
    assert read.validated("energy", "solids-pbe")[1].tolist() == [0.01, 0.02]
    assert read.validated("stress", "molecules-pbe0")[0].size == 0
    assert read.branches == list(BRANCHES)


def test_phases_leave_nothing_out(run: Path) -> None:
    spent = phases(read_run(run))
    assert spent is not None
    assert spent.edges.tolist() == list(range(0, 101, 10))
    assert {name: seconds[0] for name, seconds in spent.seconds.items()} == {
        "data": 1.0,
        "forward": 6.0,
        "validate": 2.0,
        "other": 1.0,
    }
    assert spent.per_step()["forward"][0] == 0.6
    few = spent.rebinned(3)
    assert len(few.edges) == 4
    assert few.seconds["forward"].sum() == 60.0
    row = next(row for row in region_rows(read_run(run)) if row.path == "epoch/data")
    assert (row.count, row.mean, row.min, row.max) == (200, 10.0, 5.0, 15.0)


def test_phases_without_a_container(tmp_path: Path) -> None:
    regions = {"data": {"mean": 1.0}, "forward": {"mean": 2.0}, "forward/energy": {"mean": 1.5}}
    run = read_run(write(tmp_path / "r", train(10, regions=regions), train(20, regions=regions)))
    spent = phases(run)
    assert spent is not None
    assert {name: seconds.tolist() for name, seconds in spent.seconds.items()} == {"data": [1, 1], "forward": [2, 2]}
    assert spent.edges.tolist() == [0, 10, 20]


@pytest.mark.parametrize(
    "records",
    [
        [],
        [{"kind": "train", "step": 5, "time": 1.0, "loss": None}],
        [{"kind": "train", "step": 5, "time": 1.0, "energy": 3.0, "regions": {}}],
        [{"kind": "train", "step": 5, "time": 1.0, "energy": {"a": 0.1}}],
        [{"kind": "valid", "step": 5, "time": 1.0, "branches": {"a": {}}}],
        [{"kind": "telemetry", "time": 1.0, "rss_gib": 0.0}],
        [{"kind": "start", "time": 1.0}],
        [{"kind": "parity", "branch": "a"}, {"step": 3}, {"kind": "new", "step": "x"}],
    ],
)
def test_missing_pieces(tmp_path: Path, records: list[Record]) -> None:
    Page(write_report([write(tmp_path / "run", *records)]).read_text())


def test_a_log_that_is_being_written(run: Path) -> None:
    with (run / "log.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 110, "lo')
    text = Page(write_report([run]).read_text()).text
    assert "|steps|100|" in text
    assert "|unreadable log lines|1|" in text


def test_comparison(run: Path, tmp_path: Path) -> None:
    slow = start(0, config={"steps": 100, "optim": {"learning_rate": 5e-4, "note": "<b>&"}}, mode="fsdp")
    other = write(tmp_path / "other", slow, train(10), valid(10, 0.04))
    with pytest.raises(ValueError, match="--out"):
        write_report([run, other])
    out = write_report([run, other], tmp_path / "both.html")
    page = Page(out.read_text())
    assert sorted(path.stem for path in (tmp_path / "both").glob("*.png")) == [
        "learning-energy",
        "learning-forces",
        "learning-stress",
        "optimisation",
        "phases",
        "throughput",
    ]
    assert "|parallel mode|ddp|fsdp|" in page.text
    assert "|optim.learning_rate|0.001|0.0005|" in page.text
    assert "|steps|100|10|" in page.text
    assert "|solids-pbe|20 (10)|40 (40)|" in page.text
    assert "optim.note" not in page.text
    assert not (run / "report").exists()


def test_runs_of_the_same_name(tmp_path: Path) -> None:
    for parent in ("a", "b"):
        (tmp_path / parent).mkdir()
    folders = [write(tmp_path / parent / "run", train(10)) for parent in ("a", "b")]
    text = Page(write_report(folders, tmp_path / "x.html").read_text()).text
    assert all(str(folder) in text for folder in folders)


SEARCH = """p:hidden,p:rate,p:name,objective,job_id,job_status,m:timestamp_submit,m:timestamp_gather
64,0.001,painn,-0.5,0,DONE,0.1,7200.0
128,0.002,egnn,F_exception,1,DONE,0.1,3600.0
256,0.003,painn,-0.2,2,DONE,0.1,10800.0
"""


def test_search(tmp_path: Path) -> None:
    (tmp_path / "results.csv").write_text(SEARCH)
    page = Page(write_report([tmp_path]).read_text())
    assert "|trials|3|" in page.text
    assert "|failed|1|" in page.text
    assert "|best objective|-0.2|" in page.text
    assert "|trial|objective|hidden|rate|name|2|-0.2|256|0.003|painn|0|-0.5|64|0.001|painn|" in page.text
    assert [path.name for path in (tmp_path / "report").glob("*.png")] == ["search-objective.png"]
    assert np.isnan(read_search(tmp_path).values("objective")[1])


def test_search_with_two_objectives_that_all_failed(tmp_path: Path) -> None:
    (tmp_path / "results.csv").write_text("p:x,objective_0,objective_1,job_id\n1,F,F,0\n2,F,F,1\n")
    Page(write_report([tmp_path]).read_text())
    assert len(list((tmp_path / "report").glob("*.png"))) == 2


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: None, "neither log.jsonl of a training run nor results.csv of a search"),
        (lambda folder: (folder / "results.csv").write_text("a,b\n1,2\n"), "column 'objective'"),
    ],
)
def test_nothing_to_report(tmp_path: Path, prepare: Callable[[Path], object], message: str) -> None:
    prepare(tmp_path)
    with pytest.raises(ValueError, match=message):
        write_report([tmp_path])


def test_a_search_is_not_compared(run: Path, tmp_path: Path) -> None:
    (tmp_path / "results.csv").write_text(SEARCH)
    with pytest.raises(ValueError, match="report it alone"):
        write_report([run, tmp_path], tmp_path / "x.html")


def test_pairs_are_checked(tmp_path: Path) -> None:
    file = tmp_path / "p.npz"
    nan = np.nan
    np.savez(file, energy_reference=[1.0, nan, 3.0], energy_predicted=[1.5, 2.0, nan], forces_reference=[1.0])
    (pair,) = read_pairs(file).values()
    assert [array.tolist() for array in pair] == [[1.0], [1.5]]
    np.savez(file, energy_reference=[1.0, 2.0], energy_predicted=[1.0])
    with pytest.raises(ValueError, match="2 references and 1 predictions"):
        read_pairs(file)
    np.savez(file, energy_reference=[nan], energy_predicted=[1.0])
    with pytest.raises(ValueError, match="no finite pairs"):
        read_pairs(file)


def test_matplotlib_is_named_where_it_is_missing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(ValueError, match=r'pip install "gfmpot\[plot\]"'):
        write_report([run])


def test_thinning_keeps_the_mean() -> None:
    steps, values = thinned((np.arange(1000.0), np.arange(1000.0) ** 2), 100)
    assert len(steps) == 100
    assert values.mean() == pytest.approx((np.arange(1000.0) ** 2).mean())


def test_numbers_and_cells() -> None:
    assert [short(value) for value in (0, 999, 20_000, 1.5e6)] == ["0", "999", "20k", "1.5M"]
    assert [tidy(value) for value in (1e-5, 0.002, 50.0)] == ["1e-5", "0.002", "50"]
    html = table(["a", "b"], [["<x>", 1.23456], ["y", None]])
    assert '<td>&lt;x&gt;</td><td class="number">1.235</td>' in html
    assert '<td class="number">–</td>' in html
    assert json.dumps(html)
