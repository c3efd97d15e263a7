"""What one command can prove on a machine with a GPU: `make gpu-check`."""
