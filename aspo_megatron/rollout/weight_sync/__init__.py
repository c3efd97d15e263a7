"""New weights for servers."""
