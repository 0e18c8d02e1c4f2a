"""The analysis against the installed DeepSpeed's DataAnalyzer, on the same samples; equal outputs are checked.

`python bench/analyze.py [--samples N]`: GPT windows of 2,048 tokens over synthetic documents (ids as frequent as
words), 2 workers on both sides. DeepSpeed gets a dataset that cuts a window out of a memory-mapped array, which is
less than Megatron's does, and metric functions as Megatron-DeepSpeed's analyze_data.py has them, in its published
batches of 10,000. Its map and reduce are timed inside a process that has imported everything; "whole process" is a
command from its start to its end.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
from common import Row, best_of, print_machine, print_table, quiet, run_process, zipf_tokens

LENGTH, VOCABULARY, BINS, SEED = 2048, 50_257, 50_305, 1234
BATCH = 10_000  # as in the published scripts
WORKERS = 2


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    options.add_argument("--samples", type=int, default=80_000, help="samples of 2,048 tokens (default 80,000)")
    options.add_argument("--peer", type=Path, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.peer:
        whole_peer(given.peer)
        return
    print_machine()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tokens(folder / "text", given.samples)
        compare(folder, given.samples)


def write_tokens(prefix: Path, samples: int) -> None:
    from dataeff.tokens.indexed_dataset import index_writer

    tokens = zipf_tokens(samples * LENGTH + 1, VOCABULARY)
    random = np.random.default_rng(2)
    sizes = np.maximum(1, random.gamma(2.0, 700.0, size=2 * len(tokens) // 1400).astype(np.int64))
    sizes = sizes[np.cumsum(sizes) <= len(tokens)]
    sizes = np.append(sizes, len(tokens) - sizes.sum())
    with index_writer(prefix, np.uint16) as writer:
        writer.add_flat(tokens, sizes[sizes > 0])


class Windows:
    """The samples of a folder as a dataset for DeepSpeed: Megatron's arithmetic on flat arrays."""

    def __init__(self, folder: Path) -> None:
        from dataeff.samples import Samples

        self.samples = Samples(folder / "samples", [folder / "text"])

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        import torch

        samples = self.samples
        row = int(samples.shuffle_idx[index])
        (first, begin), (last, end) = samples.sample_idx[row], samples.sample_idx[row + 1]
        dataset = samples.datasets[0]
        if first == last:
            text = dataset[int(samples.doc_idx[first])][begin : end + 1]
        else:
            middle = [dataset[int(samples.doc_idx[document])] for document in range(first + 1, last)]
            text = np.concatenate(
                [dataset[int(samples.doc_idx[first])][begin:], *middle, dataset[int(samples.doc_idx[last])][: end + 1]]
            )
        return {"text": torch.from_numpy(text.astype(np.int64)), "index": torch.tensor([index])}


def analyzer(dataset: Windows, folder: Path, metric: str) -> Any:
    import torch
    from deepspeed.runtime.data_pipeline.data_sampling.data_analyzer import DataAnalyzer
    from deepspeed.runtime.data_pipeline.data_sampling.indexed_dataset import MMapIndexedDataset

    def total_vocab_freq(data: dict[str, Any]) -> Any:
        return torch.bincount(data["text"].view(-1), minlength=BINS)

    if metric == "vocab_rarity":
        # Kept in a variable: it unmaps its file when it goes, whoever still reads it.
        frequency = MMapIndexedDataset(f"{folder}/total_vocab_freq/total_vocab_freq_metric_value", skip_warmup=True)
        counts = np.copy(frequency[0])
        counts[counts == 0] = 1
        rarity = torch.tensor(-np.log(counts / sum(counts)), dtype=torch.double)

    def vocab_rarity(data: dict[str, Any]) -> Any:
        values = torch.tensor([int(torch.sum(rarity[row]).item()) for row in data["text"]], dtype=torch.long)
        # The script prints this of every batch.
        print(f"min {min(values)}, max {max(values)}, average {sum(values) / len(values)}")
        return values

    total = metric == "total_vocab_freq"
    return DataAnalyzer(
        dataset,
        num_threads=WORKERS,
        batch_size=BATCH,
        metric_names=[metric],
        metric_functions=[total_vocab_freq if total else vocab_rarity],
        metric_types=["accumulate_value_over_samples" if total else "single_value_per_sample"],
        metric_dtypes=[torch.int64],
        save_path=str(folder),
    )


def whole_peer(folder: Path) -> None:
    """What a user's map and reduce scripts do, in one process."""
    dataset = Windows(folder)
    for metric in ("total_vocab_freq", "vocab_rarity"):
        work = analyzer(dataset, folder / "peer_whole", metric)
        work.run_map()
        work.run_reduce()


def compare(folder: Path, samples: int) -> None:
    from dataeff.analyze import map as mapping
    from dataeff.analyze.deepspeed_format import write_metric  # noqa: F401 (imported, so that start-up is paid)
    from dataeff.analyze.reduce import reduce, reduce_frequency
    from dataeff.samples import build
    from dataeff.study.specs import SamplesSpec

    prefix = folder / "text"
    build(SamplesSpec(family="gpt", sequence_length=LENGTH, seed=SEED), [prefix], folder / "samples")
    dataset, tokens = Windows(folder), samples * (LENGTH + 1)
    ours, peer = folder / "ours", folder / "peer"

    def count() -> None:
        mapping.count_part(folder / "samples", [prefix], BINS, 0, 1, ours / "f", threads=WORKERS, again=True)

    def measure() -> None:
        mapping.map_part(
            "vocab_rarity", folder / "samples", [prefix], 0, 1, ours / "r", frequency=ours / "f.npy",
            threads=WORKERS, again=True,
        )  # fmt: skip

    with quiet():
        frequency_peer = best_of(3, analyzer(dataset, peer, "total_vocab_freq").run_map)
        analyzer(dataset, peer, "total_vocab_freq").run_reduce()
        count()  # compiles
        frequency_ours = best_of(3, count)
        reduce_frequency(ours / "f", 1, ours / "f.npy")
        rarity_peer = best_of(3, analyzer(dataset, peer, "vocab_rarity").run_map)
        measure()
        rarity_ours = best_of(3, measure)
        reduce_peer = best_of(3, analyzer(dataset, peer, "vocab_rarity").run_reduce)
        reduce(ours / "r", 1, ours / "index")
        reduce_ours = best_of(3, lambda: reduce(ours / "r", 1, ours / "index"))
        command = [sys.executable, "-m", "dataeff", "analyze", str(prefix), "--family", "gpt"]
        command += ["--seq-length", str(LENGTH), "--metric", "vocab_rarity", "--workers", str(WORKERS)]
        command += ["--format", "deepspeed", "--vocab-size", str(VOCABULARY), "--out", str(folder / "whole")]
        whole_ours = run_process(command)
        whole_peer_time = run_process([sys.executable, __file__, "--peer", str(folder)])
    check_equal(folder)
    stream = plain_sum(folder / "text.bin")
    speed = "{:,.0f} Mtok/s".format
    print_table(
        f"Difficulty analysis against DeepSpeed's DataAnalyzer: {samples:,} samples of {LENGTH} tokens, 2 workers",
        [
            Row("frequency, map", speed(tokens / frequency_ours / 1e6), speed(tokens / frequency_peer / 1e6),
                frequency_peer / frequency_ours, "25x"),
            Row("vocabulary rarity, map", speed(tokens / rarity_ours / 1e6), speed(tokens / rarity_peer / 1e6),
                rarity_peer / rarity_ours, "50x"),
            Row("reduce", f"{reduce_ours:.3f} s", f"{reduce_peer:.1f} s", reduce_peer / reduce_ours, "100x"),
            Row("whole process, both metrics, same files out", f"{whole_ours.seconds:.1f} s",
                f"{whole_peer_time.seconds:.1f} s", whole_peer_time.seconds / whole_ours.seconds, "5x"),
            Row("memory bandwidth: a plain sum of the same file", speed(stream / 1e6),
                f"ours: {frequency_ours * stream / tokens:.1f} and {rarity_ours * stream / tokens:.1f} times slower",
                None, "stated"),
        ],
    )  # fmt: skip


def check_equal(folder: Path) -> None:
    names = ["total_vocab_freq_metric_value"]
    names += [f"vocab_rarity_{part}" for part in ("sample_to_metric", "index_to_sample", "index_to_metric")]
    names.append("vocab_rarity_index_to_sample_percentile_merged")
    for name in names:
        metric = "total_vocab_freq" if name.startswith("total") else "vocab_rarity"
        for suffix in (".bin", ".idx"):
            files = [folder / side / metric / f"{name}{suffix}" for side in ("whole", "peer_whole")]
            if files[0].read_bytes() != files[1].read_bytes():
                sys.exit(f"{name}{suffix}: ours is not DeepSpeed's")
    print(f"equal to the byte: {', '.join(names)} (.bin and .idx)")


def plain_sum(path: Path) -> float:
    """Tokens a second of two threads that add up the mapped file, as 64-bit words."""
    words = np.memmap(path, dtype=np.uint64, mode="r", shape=(path.stat().st_size // 8,))
    halves = np.array_split(np.asarray(words), WORKERS)

    def work() -> None:
        threads = [threading.Thread(target=np.sum, args=(half,)) for half in halves]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    work()
    return path.stat().st_size / 2 / best_of(3, work)


if __name__ == "__main__":
    main()
