"""Hugging Face folders, read and written a tensor at a time."""
