"""Atomistic graphs: structures with their neighbour lists, the verbs on them, and packing into batches."""

from gfmpot.graph.atom_graph import UNSPECIFIED_SPIN, AtomGraph
from gfmpot.graph.batching import BatchBudget
from gfmpot.graph.build import InvalidStructureError, build_graph, graph_from_atoms
from gfmpot.graph.neighbours import NeighbourList, neighbour_list
from gfmpot.graph.ops import edge_vectors, gather_senders, sum_over_neighbours, sum_per_structure
from gfmpot.graph.plain import in_plain_operations, plain_operations
from gfmpot.graph.reverse import edge_pairs, reverse_edges
from gfmpot.graph.sparse import filtered_neighbour_sums
from gfmpot.graph.verlet import VerletList
from gfmpot.graph.verlet_batch import BatchError, VerletBatch

__all__ = [
    "UNSPECIFIED_SPIN",
    "AtomGraph",
    "BatchBudget",
    "BatchError",
    "InvalidStructureError",
    "NeighbourList",
    "VerletBatch",
    "VerletList",
    "build_graph",
    "edge_pairs",
    "edge_vectors",
    "filtered_neighbour_sums",
    "gather_senders",
    "graph_from_atoms",
    "in_plain_operations",
    "neighbour_list",
    "plain_operations",
    "reverse_edges",
    "sum_over_neighbours",
    "sum_per_structure",
]
