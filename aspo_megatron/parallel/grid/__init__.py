"""The process grid: how ranks meet, where each one is, and what goes between them."""
