"""The study: typed configuration, its checks, and the specs that the stages read. Imports no torch."""
