"""The reward `choice`: which option of a question a response states as its answer."""
