"""The nodes of a pipeline."""
