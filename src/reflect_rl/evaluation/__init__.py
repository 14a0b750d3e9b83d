"""Evaluation on fixed panels, interactive play, and the report."""
