"""Megatron's format of distributed checkpoints, read and written a tensor at a time."""
