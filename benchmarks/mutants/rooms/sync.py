"""Faults in the ways of weights to servers."""

from __future__ import annotations

from benchmarks.mutants.mutant import Mutant

_CLIENT = "rollout/test_client_in_process.py::"

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "rollout/weight_sync/session.py",
        "_Session.open",
        '{"mode": "retract"}',
        "{}",
        (_CLIENT + "test_what_is_in_flight_goes_on_with_new_weights",),
    ),
    Mutant(
        "rollout/weight_sync/session.py",
        "_Session.closer",
        '"abort_all_requests": False',
        '"abort_all_requests": True',
        (_CLIENT + "test_what_is_in_flight_goes_on_with_new_weights",),
    ),
    Mutant(
        "rollout/weight_sync/session.py",
        "buckets",
        "    if bucket:\n",
        "    if not bucket:\n",
        (_CLIENT + "test_weights_arrive_bit_for_bit_in_small_buckets",),
    ),
    Mutant(
        "rollout/weight_sync/session.py",
        "_begin",
        "if fault.status != 400:",
        "if fault.status == 400:",
        (_CLIENT + "test_a_server_without_the_weights_gets_no_prompt_until_it_has_them",),
    ),
    Mutant(
        "rollout/weight_sync/transports.py",
        "DistributedTransport.prepare",
        "list(tensor.shape) for",
        "list(tensor.shape)[::-1] for",
        (_CLIENT + "test_weights_arrive_bit_for_bit_in_small_buckets",),
    ),
    Mutant(
        "rollout/weight_sync/transports.py",
        "DiskTransport.prepare",
        '"load_format": "auto"',
        '"load_format": None',
        (_CLIENT + "test_a_server_that_was_started_without_weights_gets_them_from_a_folder",),
    ),
    Mutant(
        "rollout/weight_sync/shared_bucket.py",
        "SharedBucket.__init__",
        "end_idx=end,",
        "end_idx=tensor.nbytes,",
        (
            _CLIENT + "test_weights_arrive_bit_for_bit_in_small_buckets",
            "rollout/test_weight_sync.py::test_a_shared_bucket_is_read_where_it_lies_and_goes_with_its_last_user",
        ),
    ),
    Mutant(
        "rollout/weight_sync/checksums.py",
        "disagreement",
        "mine.get(name) != its.get(name)",
        "mine.get(name) != mine.get(name)",
        (_CLIENT + "test_one_bit_of_one_weight_is_found_out",),
    ),
    Mutant(
        "train/policy_engine.py",
        "PolicyEngine._push_weights",
        "self._doubted or self._syncs",
        "self._syncs",
        ("rollout/test_probe.py",),
    ),
)
