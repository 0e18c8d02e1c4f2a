"""Tokenising against the common peers: whole processes, on the same natural prose, identical tokens.

`python bench/tokens.py [--megabytes N]`: PubMed abstracts (fetched as the corpus fetches them), jsonl.zst to .bin and
.idx. GPT: GPT-2's vocabulary; the peer is Hugging Face tokenizers' encode_batch_fast on all cores. BERT: sentence
splitting and BERT's uncased vocabulary; the peer is BertTokenizerFast in batches with the same splitter, one process.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import Row, print_machine, print_table, run_process

BATCH = 1000


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    options.add_argument("--megabytes", type=int, default=64, help="of text for GPT (default 64); BERT has a quarter")
    options.add_argument("--peer", nargs=4, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.peer:
        kind, shard, tokenizer, out = given.peer
        {"gpt2": peer_gpt2, "bert": peer_bert}[kind](Path(shard), Path(tokenizer), Path(out))
        return
    print_machine()
    with tempfile.TemporaryDirectory() as name:
        rows = [
            compare("gpt2", Path(name), given.megabytes, "7x"),
            compare("bert", Path(name), given.megabytes // 4, "3x"),
        ]
    print_table("Tokenising, whole process", rows)


def compare(kind: str, folder: Path, megabytes: int, goal: str) -> Row:
    shard, tokenizer = folder / f"{kind}.jsonl.zst", folder / f"{kind}_tokenizer"
    size = write_prose(shard, megabytes * 1_000_000)
    make_tokenizer(kind, folder, tokenizer)
    encode = [sys.executable, "-m", "dataeff", "tokens", "encode", "--shard", str(shard)]
    ours = run_process([*encode, "--tokenizer", str(tokenizer), "--out", str(folder / f"{kind}_ours")])
    peer = run_process(
        [sys.executable, __file__, "--peer", kind, str(shard), str(tokenizer), str(folder / f"{kind}_peer")]
    )
    if (folder / f"{kind}_ours.bin").read_bytes() != (folder / f"{kind}_peer.bin").read_bytes():
        sys.exit(f"{kind}: ours are not the peer's tokens")
    speed = "{:.1f} MB/s".format
    what = {"gpt2": "GPT-2 byte pairs, jsonl.zst to .bin/.idx", "bert": "BERT: sentences, word pieces, .bin/.idx"}[kind]
    memory = f"{ours.peak_bytes / 1e9:.2f} GB"
    mine = f"{speed(size / ours.seconds / 1e6)}, {memory}"
    return Row(
        f"{what} ({size / 1e6:.0f} MB)", mine, speed(size / peer.seconds / 1e6), peer.seconds / ours.seconds, goal
    )


def write_prose(path: Path, limit_bytes: int) -> int:
    """PubMed abstracts until `limit_bytes`, over again from the first where they end; bytes of text."""
    from dataeff.corpus.shard import Document, write_documents

    texts = abstracts()
    total, chosen = 0, []
    while total < limit_bytes:
        text = texts[len(chosen) % len(texts)]
        chosen.append(Document(text, "PubMed Abstracts"))
        total += len(text.encode())
    write_documents(path, chosen)
    return total


def abstracts() -> list[str]:
    from dataeff.corpus.archive import members
    from dataeff.corpus.clean import Rejected, clean_document
    from dataeff.corpus.readers import find_reader

    source = project()["sources"]["pubmed"]
    archive = fetched("pubmed", source["fetch"], source["members"])
    documents = find_reader(source["reader"], "pubmed")(members(archive, source["members"]))
    cleaned = (clean_document(document.text, 200) for document in documents)
    return [text for text in cleaned if not isinstance(text, Rejected)]


def project() -> dict:
    import yaml

    return yaml.safe_load((Path(__file__).parents[1] / "config/corpora.yaml").read_text())


def fetched(name: str, fetch: dict, members: list[str]) -> Path:
    """The cached file of a source, brought if it is not there."""
    return Path(json.loads(manifest_of(name, fetch, members).read_text())["files"][0]["path"])


def manifest_of(name: str, fetch: dict, members: list[str]) -> Path:
    from dataeff.corpus.fetch import fetch as bring
    from dataeff.study.specs import FetchSpec

    out = Path(tempfile.mkdtemp()) / "manifest.json"
    spec = FetchSpec.model_validate({"name": name, "licence": "", "fetch": fetch, "members": members})
    bring(spec, Path.home() / ".cache/dataeff", out)
    return out


def make_tokenizer(kind: str, folder: Path, out: Path) -> None:
    from dataeff.study.specs import TokensSpec
    from dataeff.tokens.tokenizer import make

    entry = project()["tokenizers"][kind]
    manifest = manifest_of(f"tokenizer_{kind}", entry["fetch"], [])
    make(TokensSpec.model_validate({"tokenizer": entry}), [manifest], out)


def batches(shard: Path):
    from dataeff.corpus.shard import read_documents

    texts: list[str] = []
    for document in read_documents(shard):
        texts.append(document.text)
        if len(texts) == BATCH:
            yield texts
            texts = []
    if texts:
        yield texts


def peer_gpt2(shard: Path, tokenizer: Path, out: Path) -> None:
    from tokenizers import Tokenizer

    backend = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    end = backend.token_to_id("<|endoftext|>")
    with out.with_suffix(".bin").open("wb") as stream:
        for texts in batches(shard):
            for encoding in backend.encode_batch_fast(texts, add_special_tokens=False):
                stream.write(np.array([*encoding.ids, end], dtype=np.uint16).tobytes())


def peer_bert(shard: Path, tokenizer: Path, out: Path) -> None:
    from transformers import AutoTokenizer

    from dataeff.tokens.sentences import split_sentences

    backend = AutoTokenizer.from_pretrained(tokenizer)
    with out.with_suffix(".bin").open("wb") as stream:
        for texts in batches(shard):
            sentences = [sentence for text in texts for sentence in split_sentences(text)]
            for ids in backend(sentences, add_special_tokens=False)["input_ids"]:
                stream.write(np.array(ids, dtype=np.uint16).tobytes())


if __name__ == "__main__":
    main()
