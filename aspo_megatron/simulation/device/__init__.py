"""The device of the stand-in: operations, memory, streams and collectives without values."""
