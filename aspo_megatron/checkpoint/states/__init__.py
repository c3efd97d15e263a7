"""The saved states of a run."""
