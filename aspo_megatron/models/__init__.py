"""Model families as tables."""
