"""One shard of text to one pair of token files, as Megatron's preprocess_data.py does it.

- byte pairs (GPT): a sequence per document, each ended by the end-of-text token (--append-eod);
- word pieces (BERT): a sequence per sentence, documents delimited by the document entries, no such token.

The shard is streamed: memory does not grow with it. A document without any token makes no sequence and is counted.
{prefix}.json tells what was counted, in all and per domain.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

from dataeff.errors import DataeffError
from dataeff.progress import Progress
from dataeff.tokens.indexed_dataset import write_indexed_dataset
from dataeff.tokens.reading import line_blocks
from dataeff.tokens.vocabulary import load
from dataeff.tokens.workers import Counts, Job, encode_blocks

# A further process takes a second to start; a file of this size keeps one busy for longer.
_BYTES_PER_PROCESS = {"byte_pairs": 128 << 20, "word_pieces": 4 << 20}


def encode(
    shard: Path, tokenizer: Path, out_prefix: Path, *, text_key: str = "text", processes: int | None = None
) -> Counts:
    """Writes {out_prefix}.bin, .idx and .json; the first two appear together or not at all.

    `text_key` names the field of a line that holds its text. `processes` (none: as many as there are cores to use,
    fewer for a small shard) changes nothing but the speed.
    """
    shard, tokenizer, out_prefix = Path(shard), Path(tokenizer), Path(out_prefix)
    encoder = load(tokenizer)
    if not shard.is_file():
        raise DataeffError(f"{shard}: no such shard; give a .jsonl or .jsonl.zst file")
    size = shard.stat().st_size
    if processes is None:
        processes = min(len(os.sched_getaffinity(0)), 1 + size // _BYTES_PER_PROCESS[encoder.form])
    if processes < 1:
        raise DataeffError(f"--processes: {processes}; at least 1 is needed")
    progress = Progress(f"tokens {out_prefix.name}", size, "bytes")
    domains: dict[str, Counts] = {}
    job = Job(str(shard), tokenizer, text_key, processes)
    with (
        write_indexed_dataset(out_prefix, encoder.vocab_size) as writer,
        encode_blocks(job, encoder, line_blocks(shard)) as parts,
    ):
        for part in parts:
            batch = part.batch
            writer.add_flat(batch.ids, batch.sizes, batch.document_sizes[batch.document_sizes > 0])
            for domain, counts in part.domains.items():
                domains[domain] = domains.get(domain, Counts()) + counts
            progress.show(part.read_bytes)
        total = sum(domains.values(), start=Counts())
        writer.facts = {
            "shard": shard.name,
            "sequence": "sentence" if encoder.form == "word_pieces" else "document",
            "vocab_size": encoder.vocab_size,
            "token_type": str(writer.dtype),
            **asdict(total),
            "domains": {domain: asdict(domains[domain]) for domain in sorted(domains)},
        }
    print(
        f"tokens {out_prefix.name}: {total.documents:,} documents, {total.characters:,} characters, "
        f"{total.sequences:,} sequences, {total.tokens:,} tokens; {total.empty_documents:,} empty documents left out",
        flush=True,
    )
    return total
