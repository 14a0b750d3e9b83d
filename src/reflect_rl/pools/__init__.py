"""Pools of texts in files, and the choice of what is worth a label among them."""
