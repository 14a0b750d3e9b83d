"""The pool of a run: collected, chosen, labelled."""
