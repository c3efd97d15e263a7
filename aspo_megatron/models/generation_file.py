"""What a model folder's generation_config.json says: which tokens end a response."""

from __future__ import annotations

from pathlib import Path

from aspo_megatron.errors import CheckpointError
from aspo_megatron.foreign_text import one_line
from aspo_megatron.reading import read_json

GENERATION_FILE = "generation_config.json"


def generation_end(folder: Path) -> int | list[int] | None:
    """The end tokens that the file names; None if it names none, or is not there.

    Raises:
        CheckpointError: it cannot be read, or names something else than tokens.
    """
    path = folder / GENERATION_FILE
    if not path.is_file():
        return None
    config = read_json(path, CheckpointError)
    if not isinstance(config, dict):
        raise CheckpointError(f"{one_line(path)}: not a JSON object")
    found: int | list[int] | None = config.get("eos_token_id")
    for token in found if isinstance(found, list) else (found,):
        if token is not None and type(token) is not int:
            raise CheckpointError(
                f"{one_line(path)}: eos_token_id holds {one_line(repr(token))[:80]}, not a whole number"
            )
    return found
