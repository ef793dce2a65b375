"""Recipes: one declarative file per task."""

if __name__ != "gfmpot.recipes":
    raise ImportError("import gfmpot.recipes, not recipes")
