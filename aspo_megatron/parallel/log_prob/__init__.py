"""Log-probs and entropies of tokens with the vocabulary split over tp, and their gradients. Public."""
