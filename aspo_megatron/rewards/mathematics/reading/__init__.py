"""What a response or a reference says as its answer."""
