"""Fixed panels, play step by step, the report."""
