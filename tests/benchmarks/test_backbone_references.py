"""benchmarks/backbone_references.py: pairs of edges that follow each other, and originals that run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
from ase.build import bulk, molecule

from gfmpot.graph import graph_from_atoms


@pytest.mark.parametrize("crystal", [True, False])
def test_all_but_the_way_back_follows(load: Any, crystal: bool) -> None:
    atoms = bulk("NaCl", "rocksalt", 5.6) if crystal else molecule("H2O")
    graph = graph_from_atoms(atoms, cutoff=4.0)
    first, second = load("backbone_references").following(graph.edge_index, graph.cell_shifts)
    assert (graph.receivers[first] == graph.senders[second]).all()
    degree = graph.n_edges // graph.n_atoms
    assert len(first) == graph.n_edges * (degree - 1)


def test_original_beside_ours(load: Any) -> None:
    backbones = load("backbones")
    graph = backbones.labelled([graph_from_atoms(molecule("H2O"), cutoff=backbones.CUTOFF)])
    given = argparse.Namespace(repeats=1, envs=Path("nowhere"))
    config = backbones.sized("egnn", 16, 2)
    assert backbones.original("egnn", config, graph, given) == "has no package"
    assert "no environment at" in backbones.original("mace", backbones.sized("mace", 16, 2), graph, given)
    assert backbones.ours(config, graph, 1)["step"] > 0
    found = backbones.original("schnet", backbones.sized("schnet", 16, 2), graph, given)
    assert found["answer"] > 0
