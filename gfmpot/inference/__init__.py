"""From graphs to results: the evaluation path of calculators and command line."""

from gfmpot.inference.auto_precision import AutoPredictor, Choice, Tolerance, build_predictor
from gfmpot.inference.precision import Precision
from gfmpot.inference.predictor import Predictor, Results

__all__ = ["AutoPredictor", "Choice", "Precision", "Predictor", "Results", "Tolerance", "build_predictor"]
