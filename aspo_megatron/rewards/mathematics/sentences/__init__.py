"""Plain formulas in sentences."""
