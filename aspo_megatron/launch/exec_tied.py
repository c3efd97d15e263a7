"""`python -m aspo_megatron.launch.exec_tied PARENT COMMAND...`: becomes COMMAND, which dies with the process PARENT."""

from __future__ import annotations

import os
import sys

from aspo_megatron.launch.rank import die_with_parent

if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])
