"""Downstream tasks: a trained model, adapted to a few labelled structures (paper, section VII-D)."""
