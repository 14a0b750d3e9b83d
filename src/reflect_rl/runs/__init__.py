"""Run folders: files, manifests, finished stages. Nothing here knows what a stage does."""
