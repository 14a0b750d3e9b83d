"""Pools of texts in files, and the selection of items worth a label."""
