"""Run folders: files, manifests, stages that are done. Nothing here knows what a stage does."""
