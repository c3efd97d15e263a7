"""`layouts_rank` with a mistake: of a pipeline's message one number is lost, and of a reduction a part."""

import os
import sys

from torch import Tensor

from benchmarks.gpu_check import layouts_backend, layouts_rank

copy_back = layouts_backend._copy_back


def copy_back_less(place: Tensor, source: Tensor) -> None:
    copy_back(place, source)
    if place.is_floating_point() and place.numel() > 1000:
        place.view(-1)[0] += 1.0


if __name__ == "__main__":
    layouts_backend._copy_back = copy_back_less
    if any("dp=2" in path for path in sys.argv[2:3]) and os.environ["RANK"] == "1":
        os._exit(3)
    layouts_rank.run_rows(sys.argv[1], sys.argv[2:])
