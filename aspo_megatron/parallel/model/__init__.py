"""The policy: layers, attention, pipeline stages, and the way of its weights in and out."""
