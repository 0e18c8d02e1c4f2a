"""Small files in the very forms that the packages of evaluation items have: what their readers are given."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

Files = dict[str, bytes]


def _task(examples: list[dict[str, Any]]) -> Files:
    return {"task.json": json.dumps({"name": "task", "examples": examples}).encode()}


def _scores(choices: list[str], right: int) -> dict[str, int]:
    return {choice: int(position == right) for position, choice in enumerate(choices)}


def _chat(content: str, ideal: str) -> str:
    return json.dumps(
        {"input": [{"role": "system", "content": "x"}, {"role": "user", "content": content}], "ideal": ideal}
    )


def winogrande(count: int = 40) -> Files:
    return _task(
        [
            {
                "input": "Context Word: box.",
                "target": [
                    f"Sentence 1: Ball {n} did not fit into the box as the _ was too big. \nAnswer1: ball. \n"
                    f"Sentence 2: Ball {n} did not fit into the box as the _ was too small. \nAnswer2: box."
                ],
            }
            for n in range(count)
        ]
    )


def winowhy(count: int = 40) -> Files:
    names = [f"Anna{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(count)]
    found = []
    for name in names:
        for word, referent in (("given", "susan"), ("received", name.lower())):
            text = f"{name} made sure to thank Susan for all the help she had {word}."
            for reason in ("it is so", "they say so"):
                told = f"{text} The 'she' refers to {referent} because {reason}."
                found.append({"input": told, "target_scores": _scores(["correct", "incorrect"], 0)})
    return _task(found)


def multirc(count: int = 40) -> Files:
    return _task(
        [
            {
                "input": f"Paragraph- Sent 1: River {n // 2} is long.Sent 2: It flows north (B) always. \n"
                f"Question: What is said of it, {n}? (A) It is long (B) It is short (C) It flows north.",
                "target": ["A, C."],
            }
            for n in range(count)
        ]
    )


def cosmosqa(count: int = 40) -> Files:
    return _task(
        [
            {
                "input": f"Context: It rained on day {n} . \nQuestion: Why did we stay in ? \nCorrect Answer: "
                + ("None of the above choices ." if n == 0 else "The rain kept us ."),
                "target": ["We were ill .", "We were asleep .", "We had no home ."],
            }
            for n in range(count)
        ]
    )


def qasc(count: int = 40) -> Files:
    return _task(
        [
            {
                "input": f"Fact: Plant {n} is a producer. \nQuestion: What is plant {n}? \nCorrect Answer: a producer.",
                "target": ["a stone.", "a consumer.", "a parasite."],
            }
            for n in range(count)
        ]
    )


def social_iqa(count: int = 40) -> Files:
    return _task(
        [
            {
                "input": f"Sasha gave Bob {n} apples. Bob ate them. How would Bob feel? ",
                "target_scores": _scores(["Full", "Hungry", "Lost"][: 2 if n == 0 else 3], n % 2),
            }
            for n in range(count)
        ]
    )


def strategyqa(count: int = 40) -> Files:
    return _task(
        [
            {"input": f"Would {n} pears sink?", "target_scores": _scores(["Yes", "No"], n % 2), "target": "No. Light."}
            for n in range(count)
        ]
    )


def vitaminc(count: int = 120) -> Files:
    found = [
        {
            "input": f"Page {n // 2}: It sold {n} records .\nClaim: It sold more than {n - 1} records .",
            "target_scores": _scores(["True", "False", "Neither"], n % 3),
        }
        for n in range(count)
    ]
    found[0]["input"] = str(found[0]["input"]).replace("sold 0", "sold 9\N{REPLACEMENT CHARACTER}")
    return _task(found)


def squad(count: int = 40) -> Files:
    articles = [
        {
            "title": f"Town_{n}",
            "paragraphs": [
                {
                    "context": f"Town {n} lies in Kerman. Its mayor of the town is Mrs. Gray since 1990.",
                    "qas": [
                        {
                            "id": str(n),
                            "question": "Where does the town lie?",
                            "answers": [
                                {"answer_start": len(f"Town {n} lies in "), "text": "Kerman"},
                                {"answer_start": len(f"Town {n} lies "), "text": "in Kerman"},
                                {"answer_start": len(f"Town {n} lies in "), "text": "Kerman"},
                            ],
                        }
                    ],
                },
                {"context": "One sentence only.", "qas": [_question("What is this?", "One sentence", 0)]},
            ],
        }
        for n in range(count)
    ]
    return {"squad.json": json.dumps({"version": "1.1", "data": articles}).encode()}


def _question(text: str, answer: str, start: int) -> dict[str, Any]:
    return {"id": "x", "question": text, "answers": [{"answer_start": start, "text": answer}]}


def logiqa(count: int = 40) -> Files:
    lines = [
        _chat(
            f"\nPassage: All {n} cats sleep.Question: What follows?\nA. A.Cat {n} sleeps.\nB. B.No cat sleeps.\n"
            f"C. C.Dogs sleep.\nD. D.Nothing.\nAnswer:",
            "A",
        )
        for n in range(count)
    ]
    return {"logiqa.jsonl": "\n".join([*lines, lines[0], ""]).encode()}


def quartz(count: int = 40) -> Files:
    lines = [
        _chat(f"With {n} resistors more, the resistance\n\n A: increases\n B: decreases", "A") for n in range(count)
    ]
    return {"samples.jsonl": "\n".join(lines).encode()}


def rotten_tomatoes(count: int = 40) -> Files:
    stream = io.StringIO(newline="")
    table = csv.writer(stream)
    table.writerow(["text", "label", "source"])
    for n in range(count):
        table.writerow([f'film {n} is " good ",\nor so', n % 2, "rotten_tomatoes"])
        table.writerow([f"a long review {n}", n % 2, "imdb"])
    return {"reviews.csv": stream.getvalue().encode()}


FILES = {
    "cosmosqa": cosmosqa,
    "logiqa": logiqa,
    "multirc": multirc,
    "qasc": qasc,
    "qnli_from_squad": squad,
    "quartz": quartz,
    "rotten_tomatoes": rotten_tomatoes,
    "social_iqa": social_iqa,
    "squad": squad,
    "strategyqa": strategyqa,
    "vitaminc": vitaminc,
    "winogrande": winogrande,
    "wsc": winowhy,
}
"""By reader."""
