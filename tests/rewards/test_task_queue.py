"""Which responses are tried again when their worker is lost or late, and which get 0."""

from __future__ import annotations

import pytest

from aspo_megatron.data.samples import Problem
from aspo_megatron.rewards.workers.task_queue import TaskQueue
from aspo_megatron.rewards.workers.tasks import Batch, Reward, Task, tasks_of

LATE = "scoring took longer than reward.timeout_seconds=2"


@pytest.mark.parametrize(
    ("events", "outcome"),
    [
        ("done", Reward(1.0)),
        ("lost done", Reward(1.0)),
        ("lost lost done", Reward(1.0)),
        ("lost lost lost", Reward(0.0, "gone (3 tries)")),
        ("late", Reward(0.0, LATE)),
        ("lost late", Reward(0.0, LATE)),
        ("late-rested done", Reward(1.0)),
        ("late-rested late-rested", Reward(0.0, LATE)),
        ("late-rested late", Reward(0.0, LATE)),
        ("late-stopped done", Reward(1.0)),
        ("late-stopped late-stopped done", Reward(1.0)),
        ("late-stopped late-stopped late-stopped", Reward(0.0, f"{LATE} (3 tries)")),
        ("late-stopped late", Reward(0.0, LATE)),
        ("late-stopped late-rested lost done", Reward(1.0)),
        ("stopped done", Reward(1.0)),
        ("stopped stopped done", Reward(1.0)),
        ("stopped stopped stopped", Reward(0.5)),
        ("lost stopped late-stopped", Reward(0.0, f"{LATE} (3 tries)")),
        ("back back back back back lost done", Reward(1.0)),
    ],
)
def test_how_often_a_response_is_tried(events, outcome):
    queue, batch = TaskQueue(2.0), Batch(1)
    queue.add(tasks_of(batch, [(Problem("p-0", "?", (1,)), "7")]))
    for event in events.split():
        task = queue.next()
        assert not queue
        happen(queue, task, event)
    assert not queue
    assert batch.wait() == [outcome]


def happen(queue: TaskQueue, task: Task, event: str) -> None:
    if event == "done":
        queue.finish(task, Reward(1.0), was_stopped=False)
    elif event == "stopped":
        queue.finish(task, Reward(0.5), was_stopped=True)
    elif event == "lost":
        queue.lose(task, "gone")
    elif event == "back":
        queue.put_back([task])
    else:
        queue.time_out(task, was_stopped=event == "late-stopped", has_rested=event == "late-rested")


def test_those_that_come_back_go_first_and_in_their_order():
    queue, batch = TaskQueue(2.0), Batch(6)
    queue.add(tasks_of(batch, [(Problem("p-0", "?", (1,)), str(index)) for index in range(6)]))
    taken = [queue.next() for _ in range(4)]
    queue.put_back(taken[1:])
    queue.lose(taken[0], "gone")
    assert [queue.next().index for _ in range(6)] == list(range(6))
