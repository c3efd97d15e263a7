"""Ranks on this machine: started, watched, stopped, and ended together."""
