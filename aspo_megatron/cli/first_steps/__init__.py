"""The commands of the first day: a run file to edit, a reward tried on some problems, completion in the shell."""
