"""Recipes: one declarative file per task; each runs as a script, and is reachable after a plain install."""
