"""Breaks one function at a time and says which faults the tests do not notice."""
