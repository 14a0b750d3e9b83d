"""A trained agent behind HTTP."""
