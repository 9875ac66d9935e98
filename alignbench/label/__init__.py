"""People rank answers on a page of their own machine; their annotations stand in an append-only journal."""
