"""The recipe's fields, one class a theme. Each field states once all that is known of it.

A field's help is what a person reads beside it: it says what the knob does and names a number. What this package does
not do: put the themes together, say which values cannot go together, or read and write recipes (recipe.py).
"""

from studio.recipe.fields.base import Theme
from studio.recipe.fields.data import PLACEHOLDER, PLACEHOLDERS, Data, Model
from studio.recipe.fields.method import Method, Quantization
from studio.recipe.fields.training import Evaluation, Optimizer, Output, Schedule

__all__ = [
    "PLACEHOLDER",
    "PLACEHOLDERS",
    "Data",
    "Evaluation",
    "Method",
    "Model",
    "Optimizer",
    "Output",
    "Quantization",
    "Schedule",
    "Theme",
]
