"""A run as a Slurm job."""
