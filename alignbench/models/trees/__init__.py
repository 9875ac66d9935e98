"""Token trees: what follows any path of tokens, each position computed once."""
