"""From graphs to results: the evaluation path of calculators and command line."""

from gfmpot.inference.auto_precision import AutoPredictor, Choice, Tolerance, build_predictor
from gfmpot.inference.precision import Precision
from gfmpot.inference.predictor import Predictor, Results
from gfmpot.inference.property_predictor import Answer, PropertyPredictor

__all__ = [
    "Answer",
    "AutoPredictor",
    "Choice",
    "Precision",
    "Predictor",
    "PropertyPredictor",
    "Results",
    "Tolerance",
    "build_predictor",
]
