"""The recipes and batch scripts that come with the package: listed, and copied."""
