"""What a run records and shows: metric files, the progress display and plots."""
