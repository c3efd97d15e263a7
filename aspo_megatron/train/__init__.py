"""Training: the loop, and what each of its steps does."""
