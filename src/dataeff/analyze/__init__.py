"""Difficulty of every sample: token counts, metrics, and the index that plans select from."""
