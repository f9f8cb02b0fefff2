"""Training: loss, reference energies, importance-sampled replay, and the trainer that joins them."""
