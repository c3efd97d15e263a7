"""A run as it goes, from the files in its folder alone: the run may be on another machine that shares the disk."""
