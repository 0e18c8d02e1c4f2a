"""The `corpus` stage: pinned files are fetched into a cache, then read, cleaned, cut to size, split, sharded.

`fetch` brings one source's file and writes its manifest; `build` turns the sources of a corpus into training
shards, one held-out file per domain and a data card; `shard` reads and writes shards, for later stages too.
"""
