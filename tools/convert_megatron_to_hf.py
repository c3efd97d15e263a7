"""Convert a megatron checkpoint to a Hugging Face folder; the same as `aspo convert megatron-to-hf`."""

from __future__ import annotations

import sys

import typer

from aspo_megatron.cli.convert import megatron_to_hf
from aspo_megatron.errors import UserError

if __name__ == "__main__":
    try:
        typer.run(megatron_to_hf)
    except UserError as error:
        sys.exit(f"error: {error}")
