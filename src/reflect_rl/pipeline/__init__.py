"""Stages in order, several runs side by side, several processes."""
