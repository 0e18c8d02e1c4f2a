"""The `corpus` stage: pinned files are fetched into a cache, then read, cleaned and written as shards.

`fetch` brings one source's files and writes their manifest; `build` turns the sources of a pooled corpus into
training shards, one held-out file per domain and a data card; `sharded` does so file by file, for text of the Pile's
size; `selection` tells from the configuration alone what a corpus takes; `shard` reads and writes shards.
"""
