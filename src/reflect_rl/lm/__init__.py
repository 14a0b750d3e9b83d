"""Causal language models: loading, forward passes, decoding. Nothing here knows of worlds."""
