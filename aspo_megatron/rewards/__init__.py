"""What a response is worth: scorers, and the worker processes that run them with a time limit."""
