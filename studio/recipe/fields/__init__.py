"""Recipe fields, one class per theme. Everything known about a field is stated once, here.

A field's help is shown next to it in the form: it says when to change the value and by how much. Combining the themes,
rejecting incompatible values, and reading and writing recipes are in recipe.py.
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
