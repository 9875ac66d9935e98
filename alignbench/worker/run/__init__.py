"""One cell at work: the contract `alignbench.api.method.Run`, and the parts it is made of."""
