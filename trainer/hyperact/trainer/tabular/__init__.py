"""Agents for decision processes whose states and actions can be listed: exact where the deep agent samples.

HyperAgent as its theory has it, with posterior sampling (PSRL) and randomized value iteration (RLSVI) beside it.
"""
