"""People rank answers on a page of their own machine; their verdicts stand in an append-only journal."""
