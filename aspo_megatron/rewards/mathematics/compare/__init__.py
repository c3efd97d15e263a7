"""Comparing answers of each kind."""
