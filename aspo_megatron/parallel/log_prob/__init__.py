"""Log-probs and entropies of tokens with the vocabulary split over tp, and their gradients.

Usable by itself: it takes tensors and a process group, whoever made them, and imports no megatron-core. Its public form
is `aspo_megatron.api.token_log_probs`.
"""

from aspo_megatron.parallel.log_prob.autograd import token_log_probs, token_objective

__all__ = ["token_log_probs", "token_objective"]
