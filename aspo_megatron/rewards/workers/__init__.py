"""The worker processes that score responses, with a time limit."""
