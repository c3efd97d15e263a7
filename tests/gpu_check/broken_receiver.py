"""`weight_sync_receiver` with a mistake: one bit of one tensor is another one."""

import sys
from typing import Any

from benchmarks.gpu_check.weight_sync_receiver import Receiver, main

receive = Receiver._receive


def receive_wrongly(self: Receiver, body: dict[str, Any]) -> dict[str, Any]:
    answer = receive(self, body)
    if body["names"][0] == "layers.0.matrix":
        self._weights["layers.0.vector"][-1] += 1
    return answer


if __name__ == "__main__":
    Receiver._receive = receive_wrongly  # type: ignore[method-assign]
    main(sys.argv[1:])
