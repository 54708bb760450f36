"""Training a pruned network to compute what the network before pruning computes."""
