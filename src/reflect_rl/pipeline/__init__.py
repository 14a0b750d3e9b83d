"""The pipeline: stages in order, comparisons of runs, worker processes and ranks."""
