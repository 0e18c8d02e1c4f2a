"""dataeff: curriculum learning, random layerwise token dropping and their study, from text to tables.

The package's modules are the stages of the study, in the order of the data: corpus, tokens, samples, analyze,
plan, pretrain, evaluate, tables, figures, report. `dataeff.study` is the typed configuration that they read.
"""

from importlib.metadata import version

__version__ = version("dataeff")
