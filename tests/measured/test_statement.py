"""The reproduction statement: every claim and run of a built folder, links that lead somewhere, the rest untouched."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dataeff import cli
from dataeff.claims import read_claims
from dataeff.errors import DataeffError
from dataeff.files import read_json
from dataeff.measured.statement import BEGIN, END

BEFORE, AFTER = "# A title\n\nBy hand.\n\n", "\n\nMore by hand.\n"


def documents(folder: Path) -> tuple[Path, Path]:
    summary, document = folder / "README.md", folder / "docs" / "reproduction.md"
    document.parent.mkdir(exist_ok=True)
    for path in (summary, document):
        path.write_text(f"{BEFORE}{BEGIN}\nold\n{END}{AFTER}", encoding="utf-8")
    return summary, document


def state(built: Path, summary: Path, document: Path) -> None:
    cli.main(["measured", "state", str(built), "--summary", str(summary), "--document", str(document)])


@pytest.fixture(scope="module")
def stated(built: Path) -> tuple[Path, Path]:
    """README.md and docs/reproduction.md beside the built folder."""
    found = documents(built.parent)
    state(built, *found)
    return found


def test_only_the_part_between_the_marks_is_written(stated: tuple[Path, Path]) -> None:
    for path in stated:
        text = path.read_text(encoding="utf-8")
        assert text.startswith(f"{BEFORE}{BEGIN}\n")
        assert text.endswith(f"{END}{AFTER}")
        assert "old" not in text.split()


def test_every_claim_stands_with_its_verdict_and_reason(built: Path, stated: tuple[Path, Path]) -> None:
    claims = read_claims(built / "tables" / "core").claims
    rows = [line for line in stated[1].read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    rows = rows[1 : 1 + len(claims)]
    for row, claim in zip(rows, claims, strict=True):
        assert f"| **{claim.verdict}** |" in row
        assert claim.text in row
        assert claim.reason in row
    counts = {name: sum(claim.verdict == name for claim in claims) for name in ("holds", "does not hold")}
    said = stated[0].read_text(encoding="utf-8")
    assert re.search(rf"{counts['holds']} holds?, {counts['does not hold']} (does|do) not", said)
    for claim in claims:
        assert (claim.text in said) == claim.headline


def test_every_link_leads_to_a_file_or_a_place(stated: tuple[Path, Path]) -> None:
    for path in stated:
        text = path.read_text(encoding="utf-8")
        links = re.findall(r"\]\(([^)]+)\)", text)
        assert links
        for link in links:
            if link.startswith("#"):
                assert f'<a id="{link[1:]}"></a>' in text
            else:
                assert (path.parent / link).exists(), link


def test_every_run_has_its_spec_and_commit(built: Path, stated: tuple[Path, Path]) -> None:
    text = stated[1].read_text(encoding="utf-8")
    runs = sorted(path.parent.name for path in built.glob("pretrain/*/run.json"))
    assert len(runs) > 20
    for name in runs:
        assert f"specs/pretrain/{name}.yaml" in text
    assert text.count("`0123456789ab`") == len(runs)
    assert read_json(built / "measured.json")["command"] in text


def test_it_is_the_same_again(built: Path, stated: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    state(built, *stated)
    assert capsys.readouterr().out.count("up to date") == 2


@pytest.mark.parametrize("text", ["no marks", f"{END} {BEGIN}", f"{BEGIN} {END} {BEGIN}"])
def test_a_document_without_the_marks_is_left_alone(built: Path, tmp_path: Path, text: str) -> None:
    summary, document = documents(tmp_path)
    document.write_text(text, encoding="utf-8")
    before = summary.read_text(encoding="utf-8")
    with pytest.raises(SystemExit):
        state(built, summary, document)
    assert (summary.read_text(encoding="utf-8"), document.read_text(encoding="utf-8")) == (before, text)


def test_a_folder_that_is_not_built_is_refused(collected: tuple[Path, Path], tmp_path: Path) -> None:
    from dataeff.measured.statement import summary

    with pytest.raises(DataeffError, match=r"claims\.json: no such file; run `dataeff measured build"):
        summary(collected[0], tmp_path / "README.md")
    with pytest.raises(DataeffError, match="not the folder of one collected grid"):
        summary(tmp_path, tmp_path / "README.md")
