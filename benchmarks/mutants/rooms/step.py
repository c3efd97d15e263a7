"""Faults in an update: its objective, its sums over ranks, its optimizer, and what it is given."""

from __future__ import annotations

from benchmarks.mutants.mutant import Mutant

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "parallel/update/step.py",
        "update",
        old="dist.all_reduce(totals, group=topology.dp.group)",
        new="dist.all_reduce(totals, group=topology.cp.group)",
        tests=("parallel/test_two_ranks.py::test_two_ranks_are_as_one[dp2-distopt-overlap]",),
    ),
    Mutant(
        "parallel/update/step.py",
        "_micro_batches",
        old="-(-int(count) // multiple) * multiple",
        new="int(count) // multiple * multiple",
        tests=("parallel/test_small_step.py::test_micro_batches_of_a_pipeline",),
    ),
    Mutant(
        "parallel/update/step.py",
        "_forward_step",
        old="weighted_sum(output, batch) + anchor",
        new="weighted_sum(output, batch)",
        tests=("parallel/test_small_step.py::test_an_update_is_that_of_hugging_face",),
    ),
    Mutant(
        "parallel/model/spec.py",
        "transformer_config",
        old="calculate_per_token_loss=True",
        new="calculate_per_token_loss=False",
        tests=("parallel/test_small_step.py::test_an_update_is_that_of_hugging_face",),
    ),
    Mutant(
        "parallel/update/step.py",
        "_announce_rest",
        old="if parameter not in group.per_param_grad_ready_counts",
        new="if parameter in group.per_param_grad_ready_counts",
        tests=("parallel/test_small_step.py::test_updates_do_not_feel_each_other",),
    ),
    Mutant(
        "parallel/update/objective.py",
        "PolicyObjective._sum",
        old="per_token - self.config.entropy_coef * entropy",
        new="per_token + self.config.entropy_coef * entropy",
        tests=("parallel/test_small_step.py::test_an_update_is_that_of_hugging_face",),
    ),
    Mutant(
        "parallel/update/objective.py",
        "_weighted_sum",
        old=", 0.0).sum()",
        new=", 0.0).mean()",
        tests=("parallel/test_small_step.py::test_an_update_is_that_of_hugging_face",),
    ),
    Mutant(
        "parallel/update/objective.py",
        "PolicyObjective._old_log_probs",
        old="log_probs.detach() if self.on_policy else batch.old_log_probs",
        new="batch.old_log_probs if self.on_policy else log_probs.detach()",
        tests=("parallel/test_small_step.py::test_an_update_is_that_of_hugging_face",),
    ),
    Mutant(
        "parallel/update/optimizer.py",
        "Optimizer.__init__",
        old="model.config.no_sync_func = no_sync if len(no_sync) > 1 else no_sync[0]",
        new="model.config.no_sync_func = None",
        tests=("parallel/test_small_step.py::test_updates_do_not_feel_each_other",),
    ),
    Mutant(
        "parallel/update/optimizer.py",
        "Optimizer.zero_grad",
        old="            chunk.zero_grad_buffer()",
        new="            chunk.zero_grad()",
        tests=("parallel/test_small_step.py::test_updates_do_not_feel_each_other",),
    ),
    Mutant(
        "parallel/update/schedule.py",
        "Schedule.__init__",
        old="max(updates, warm_up) + 1",
        new="max(updates, warm_up)",
        tests=("parallel/test_schedule.py",),
    ),
    Mutant(
        "parallel/update/statistics.py",
        "StepStatistics.add",
        old="torch.where(where != 0, values * where, 0.0)",
        new="(values * where)",
        tests=("parallel/test_small_step.py::test_statistics_of_micro_batches",),
    ),
    Mutant(
        "parallel/model/pipeline_stages.py",
        "_in_order",
        old="if chunk or not without_first_chunk",
        new="if not without_first_chunk",
        tests=("parallel/test_small_step.py::test_order_in_which_stages_receive",),
    ),
    Mutant(
        "parallel/model/chunk.py",
        "ModelChunk.forward",
        old="tensor_parallel_output_grad=True",
        new="tensor_parallel_output_grad=False",
        tests=("parallel/test_two_ranks.py::test_two_ranks_are_as_one[tp2-sp]",),
    ),
    Mutant(
        "parallel/model/chunk.py",
        "ModelChunk.forward",
        old='"sum_hidden_grad": not topology.sequence_parallel',
        new='"sum_hidden_grad": True',
        tests=("parallel/test_two_ranks.py::test_two_ranks_are_as_one[tp2-sp]",),
    ),
    Mutant(
        "train/advantages.py",
        "subtract_kl",
        old="values[place] -= shaping.kl_coef * kls[-1]",
        new="values[place] += shaping.kl_coef * kls[-1]",
        tests=("train/test_kl_reward.py::test_against_float64_in_this_process",),
    ),
    Mutant(
        "train/learner.py",
        "Learner.add_log_probs",
        old="response_log_probs(reference, groups, self._limits)",
        new="response_log_probs(self.model, groups, self._limits)",
        tests=("parallel/test_small_step.py::test_log_probs_of_policy_and_reference",),
    ),
    Mutant(
        "train/updates.py",
        "StepUpdates.make",
        old="self._objective if results else on_policy",
        new="on_policy",
        tests=("train/test_updates.py",),
    ),
)
