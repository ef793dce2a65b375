"""Stores of labelled structures: ADIOS2 files, and memory shared by the ranks of a run."""
