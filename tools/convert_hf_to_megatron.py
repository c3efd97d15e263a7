"""Convert a Hugging Face folder to a megatron distributed checkpoint; the same as `aspo convert hf-to-megatron`."""

from __future__ import annotations

import sys

import typer

from aspo_megatron.cli.convert import hf_to_megatron
from aspo_megatron.errors import UserError

if __name__ == "__main__":
    try:
        typer.run(hf_to_megatron)
    except UserError as error:
        sys.exit(f"error: {error}")
