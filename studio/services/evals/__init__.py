"""Evaluations: prompt sets, their queue, the judge."""
