"""Pretraining: executes the rows of a training plan with a DeepSpeed engine, from any of its checkpoints."""
