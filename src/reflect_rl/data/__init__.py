"""The pool of a run: collect states, select some, label them."""
