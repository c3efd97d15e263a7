"""Memory of a rank, out of the configuration and the model's sizes."""
