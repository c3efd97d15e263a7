"""Recorded runs as pictures and pages."""
