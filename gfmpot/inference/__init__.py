"""From graphs to results: the evaluation path of calculators and command line."""

from gfmpot.inference.precision import Precision
from gfmpot.inference.predictor import Predictor, Results

__all__ = ["Precision", "Predictor", "Results"]
