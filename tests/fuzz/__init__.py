"""Nasty files and mutated ones: every outcome is rows, findings or a sentence."""
