"""What a frozen network with adapters computes of given tokens: hidden states, log-probabilities, choices."""
