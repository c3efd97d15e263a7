"""Generation inside the training processes."""
