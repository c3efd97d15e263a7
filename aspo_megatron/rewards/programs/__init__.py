"""The reward of programs: a problem's tests, in a sandbox."""
