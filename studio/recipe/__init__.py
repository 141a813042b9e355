"""The recipe: the one description of a run, its fields, and what of it the fast path takes."""

from studio.recipe.recipe import PLAIN_ATTENTION_TOKENS, THEMES, Known, Recipe, all_fields, find_field, from_text

__all__ = ["PLAIN_ATTENTION_TOKENS", "THEMES", "Known", "Recipe", "all_fields", "find_field", "from_text"]
