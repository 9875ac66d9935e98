"""Finished cells: their answers, their scores, and what metrics read of them."""
