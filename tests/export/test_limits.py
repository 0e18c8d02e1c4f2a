"""What DeepSpeed cannot do is refused by its field; every other change of a variant is in the exported files."""

import re
from pathlib import Path
from typing import Any

import pytest

from dataeff.errors import DataeffError
from dataeff.export import deepspeed
from dataeff.export.ds_config import ds_config
from dataeff.export.limits import check_expressible
from dataeff.export.megatron import flags
from dataeff.export.subject import Export, places_of, spread
from dataeff.inquiry.options import deepspeed_arguments
from dataeff.study.load import Study
from dataeff.study.specs import plan_spec, pretrain_spec
from tests.inquiry.asking import Asked
from tests.inquiry.variant_changes import BASES, Change, all_fields, changes, run_of, study_of

PACING = {"start": 10, "end": 100, "over": "1/2"}
EXPORTABLE: dict[str, dict[str, Any]] = {
    "empty": {},
    "select": {"curriculum": {"vocab_rarity": {"apply": "select", "pacing": PACING}}},
    "length": BASES["length"],
    "drop": BASES["drop"],
    "rate": {"final_lr": "1/3", "dropout": 0.2},
}
CHANGES = changes(EXPORTABLE)


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Asked:
    return Asked(deepspeed_arguments, deepspeed.run, capsys)


def refusal(ask: Asked, out: Path, run: str, *settings: str) -> str:
    with pytest.raises(DataeffError) as caught:
        ask("--run", run, "--out", str(out), settings=settings)
    assert not out.exists()
    return str(caught.value)


@pytest.mark.parametrize(
    ("variant", "field", "remedy"),
    [
        ("one_route", "token_drop.route: one_route", "route: each_layer"),
        ("layer_drop", "token_drop.route: samples", "route: each_layer"),
        ("window", "curriculum.seqlen.apply: window", "apply: truncate"),
        ("length_buckets", "curriculum.seqlen.apply: bucket", "apply: truncate"),
        ("cl_warmup", "curriculum.compression_ratio.then: uniform", "then: hold"),
        ("cl_voc_average", "averaging: last", "without averaging"),
        ("cl_voc_ema", "averaging: ema", "without averaging"),
        ("ltd_layer_token_lr", "lr_clock: layer_tokens", "lr_clock: effective_tokens"),
        ("ltd_raw_token_lr", "lr_clock: raw_tokens", "lr_clock: effective_tokens"),
    ],
)
def test_variants_of_later_work(ask: Asked, tmp_path: Path, variant: str, field: str, remedy: str) -> None:
    message = refusal(ask, tmp_path / "out", f"gpt-{variant}-100-s1234")
    assert message.startswith(f"gpt-{variant}-100-s1234 cannot be exported to DeepSpeed. {field}: ")
    assert f"export with {remedy}" in message or f"export {remedy}" in message


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        (
            "{curriculum: {vocab_rarity: {apply: select, pacing: {start: 1, end: 50, over: 1/2}}}}",
            "curriculum.vocab_rarity.pacing.end: 50 percent: .*only an end of 100",
        ),
        (
            "{token_drop: {pacing: {start: 1/2, end: 1, over: 1/2, root: 2, multiple_of: 16}}}",
            "token_drop.pacing.root: 2: .*linear schedule alone; export with root: 1",
        ),
    ],
)
def test_pacings(ask: Asked, tmp_path: Path, variant: str, message: str) -> None:
    found = refusal(ask, tmp_path / "out", "gpt-mine-50-s1", f"variants={{gpt: {{mine: {variant}}}}}")
    assert re.search(message, found)


def test_all_faults_are_in_one_message(ask: Asked, tmp_path: Path) -> None:
    variant = "{extends: [one_route], lr_clock: raw_tokens, averaging: {kind: ema, over: 1/20}}"
    found = refusal(ask, tmp_path / "out", "gpt-mine-50-s1", f"variants={{gpt: {{mine: {variant}}}}}")
    assert [field for field in ("token_drop.route", "lr_clock", "averaging") if f"{field}: " in found] == [
        "token_drop.route",
        "lr_clock",
        "averaging",
    ]


@pytest.fixture(scope="module")
def changed() -> Study:
    return study_of(EXPORTABLE, CHANGES)


def files(study: Study, variant: str) -> tuple[Any, str]:
    """ds_config.json and the options of a run, without its name."""
    run = run_of(variant)
    plan, training = plan_spec(study, run), pretrain_spec(study, run)
    layout = spread(plan.batch_size, study.hardware, None, None, None)
    places = places_of(study, run, Path("results"), Path("out"), None)
    export = Export(study, run, plan, training, layout, places)
    check_expressible(export)
    return ds_config(export), flags(export).replace(run.name, "")


@pytest.mark.parametrize(("number", "change"), list(enumerate(CHANGES)), ids=[change.name for change in CHANGES])
def test_a_change_is_exported_or_refused(changed: Study, number: int, change: Change) -> None:
    before = files(changed, change.base)
    try:
        after = files(changed, f"change{number}")
    except DataeffError as refused:
        assert change.path[0] in str(refused)  # noqa: PT017 (most changes are exported)
    else:
        assert after != before


def test_every_field_but_those_of_averages_is_among_the_changes() -> None:
    missing = all_fields() - {change.field for change in CHANGES}
    assert missing == {("Averaging", name) for name in ("kind", "over", "count")}
