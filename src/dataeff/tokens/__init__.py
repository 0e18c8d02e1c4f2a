"""Text to tokens: the tokenizer, the encoding of a shard, and the .bin/.idx files that hold the result."""
