"""Bridges: environments of other libraries as worlds. A bridge gives a class, so `module:Class` works everywhere.

- base: what they share; gymnasium, openenv, verifiers: one for each library
"""
