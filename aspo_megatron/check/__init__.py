"""The same updates in several layouts, compared with one process."""
