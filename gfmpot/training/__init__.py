"""Training of multi-branch potentials: the loop, its loss, the branch weights."""
