"""Ways of writing, each brought into the one form that is compared."""
