"""Task definitions of our own for lm-eval, and the functions that they name.

`{task}_papers` scores as the papers' harness did; `package_{set}` asks items from packages with the prompts that the
harness has for the published set. Their data are put in their place by the stage that runs them; config/tasks.yaml
says of each what it is and is not.
"""
