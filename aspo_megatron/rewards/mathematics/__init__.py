"""The reward of mathematics: what a response answers, and whether that equals the reference."""
