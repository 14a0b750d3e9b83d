"""Causal language models: loaded, read, written with. Nothing here knows of worlds."""
