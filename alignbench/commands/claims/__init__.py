"""Claims of the literature put to the test: registered first, then run, then a verdict on each part by the numbers.

A claim never tunes itself until it holds: recipes, measures, signs and the smallest effect that counts stand in the
registry before the first seed, and a failure is printed like a success.
"""
