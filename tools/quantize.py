"""Quantise a trained model for servers; the same as `aspo quantize`."""

from __future__ import annotations

import sys

import typer

from aspo_megatron.cli.quantize import quantize
from aspo_megatron.errors import UserError

if __name__ == "__main__":
    try:
        typer.run(quantize)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
