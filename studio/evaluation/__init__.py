"""Evaluation, without torch: prompts, rules that judge answers, figures with intervals, and sentences on the result."""
