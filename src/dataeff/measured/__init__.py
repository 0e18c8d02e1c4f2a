"""measured: the results of a grid, small enough to be committed, and everything that people read made from them again.

A folder results/measured/{scale} is laid out as results/{scale} and results/data/{corpus} are, less what is large
(weights, checkpoints, token files): the stages `tables`, `figures` and `report` read it as they read the results.
"""
