"""Every alert fires where it should, and nowhere else, by Prometheus' own promtool."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from coldstart.cli import main
from coldstart.generate.alerts import GROUPS, RUNBOOKS
from coldstart.metrics import PREFIX, TABLE
from coldstart.status import ErrorCode

ROOT = Path(__file__).parents[2]
RULES = ROOT / "charts" / "coldstart" / "rules"
PAGES = ROOT / "docs" / "runbooks"

ALERTS = {alert.name: alert for group in GROUPS.values() for alert in group}

STAGE = {"namespace": "ml", "run": "r", "stage": "grpo"}
RUN = {"run_namespace": "ml", "run": "r", "stage": "grpo"}

needs_promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="needs promtool")


def stage(name, values, pod="p-1", **labels):
    """A series of a stage's exporter, in promtool's notation, a value a minute."""
    return f"{PREFIX}{name}", {**STAGE, "pod": pod, **labels}, values


def run(name, values, **labels):
    """A series that the operator tells of a run."""
    return f"{PREFIX}operator_run_{name}", RUN | {"namespace": "coldstart-system"} | labels, values


def operator(name, values, **labels):
    return f"{PREFIX}operator_{name}", {"namespace": "coldstart-system", **labels}, values


def failed(reason, at="0x900", **labels):
    """A run that failed at minute 0."""
    ended = run("finished_timestamp_seconds", at)
    del ended[1]["stage"]
    return [run("info", "1x900", phase="Failed", reason=reason, **labels), ended]


UNFINISHED = [stage("step", "5x900"), stage("max_steps", "100x900")]
DONE = [stage("step", "100x900"), stage("max_steps", "100x900")]
STOPPED = stage("last_step_timestamp_seconds", "0+60x10 600x890")
"""The last update was after 10 minutes."""
STEPS_OF_A_MINUTE = [stage("step_seconds_sum", "60x900"), stage("step_seconds_count", "1x900")]
STEPS_OF_AN_HOUR = [stage("step_seconds_sum", "3600x900"), stage("step_seconds_count", "1x900")]

CASES = {
    # name: (alert, minute, labels of the alert that fires or None, series)
    "no update for an hour": ("StageStalled", 75, STAGE, [STOPPED, *UNFINISHED]),
    "no update for an hour of short ones": (
        "StageStalled",
        75,
        STAGE,
        [STOPPED, *UNFINISHED, *STEPS_OF_A_MINUTE],
    ),
    "no update for half an hour": ("StageStalled", 40, None, [STOPPED, *UNFINISHED]),
    "updates are long": ("StageStalled", 75, None, [STOPPED, *UNFINISHED, *STEPS_OF_AN_HOUR]),
    "all updates are done": ("StageStalled", 75, None, [STOPPED, *DONE]),
    "updates come": (
        "StageStalled",
        75,
        None,
        [stage("last_step_timestamp_seconds", "0+60x900"), *UNFINISHED],
    ),
    "another attempt makes updates": (
        "StageStalled",
        75,
        None,
        [
            stage("last_step_timestamp_seconds", "600x30 _x900"),
            stage("last_step_timestamp_seconds", "_x30 1860+60x800", pod="p-2"),
            *UNFINISHED,
        ],
    ),
    "no first update": ("StageNeverStepped", 70, STAGE, [stage("info", "1x900", attempt="1")]),
    "attempts that never make one": (
        "StageNeverStepped",
        70,
        STAGE,
        [
            stage("info", "1x30 _x900", attempt="1"),
            stage("info", "_x30 1x900", attempt="2", pod="p-2"),
        ],
    ),
    "a first update": (
        "StageNeverStepped",
        70,
        None,
        [
            stage("info", "1x900", attempt="1"),
            stage("last_step_timestamp_seconds", "_x20 1200x900"),
        ],
    ),
    "half of the reward is lost": (
        "RewardCollapsed",
        500,
        STAGE,
        [stage("reward_total_mean", "0.6x300 0.2x600")],
    ),
    "it is lost over two attempts": (
        "RewardCollapsed",
        500,
        STAGE,
        [
            stage("reward_total_mean", "0.6x300 _x600"),
            stage("reward_total_mean", "_x300 0.2x600", pod="p-2"),
        ],
    ),
    "a third is lost": (
        "RewardCollapsed",
        500,
        None,
        [stage("reward_total_mean", "0.6x300 0.4x600")],
    ),
    "one bad update": (
        "RewardCollapsed",
        320,
        None,
        [stage("reward_total_mean", "0.6x300 0x5 0.6x600")],
    ),
    "a reward that was never there": (
        "RewardCollapsed",
        500,
        None,
        [stage("reward_total_mean", "0.08x300 0.01x600")],
    ),
    "a reward below zero that rises": (
        "RewardCollapsed",
        500,
        None,
        [stage("reward_total_mean", "-0.9x300 -0.2x600")],
    ),
    "a policy that has left": ("KLBlowUp", 120, STAGE, [stage("kl_nats", "0.1x40 3x600")]),
    "a jump of one update": ("KLBlowUp", 120, None, [stage("kl_nats", "0.1x100 5x2 0.1x600")]),
    "half is cut": (
        "TruncationHigh",
        180,
        STAGE,
        [stage("completion_truncated_ratio", "0.5x600")],
    ),
    "half is cut at the beginning": (
        "TruncationHigh",
        180,
        None,
        [stage("completion_truncated_ratio", "0.5x40 0.1x600")],
    ),
    "no reward at all": (
        "AllRewardsZero",
        20,
        STAGE,
        [
            stage("reward_zero_steps", "0+1x600", reward="accuracy"),
            stage("reward_zero_steps", "1+1x600", reward="format"),
        ],
    ),
    "one of two rewards": (
        "AllRewardsZero",
        20,
        None,
        [
            stage("reward_zero_steps", "0+1x600", reward="accuracy"),
            stage("reward_zero_steps", "0x600", reward="format"),
        ],
    ),
    "nine steps without": (
        "AllRewardsZero",
        20,
        None,
        [stage("reward_zero_steps", "9x600", reward="accuracy")],
    ),
    "a sampler that drifts": (
        "SamplerMismatch",
        60,
        STAGE,
        [stage("sampler_logp_diff_mean", "0.2x600")],
    ),
    "a sampler that rounds": (
        "SamplerMismatch",
        60,
        None,
        [stage("sampler_logp_diff_mean", "0.02x600")],
    ),
    "a checkpoint of yesterday": (
        "CheckpointTooOld",
        200,
        STAGE,
        [stage("checkpoint_timestamp_seconds", "0x900"), *UNFINISHED],
    ),
    "no checkpoint yet": ("CheckpointTooOld", 200, STAGE, UNFINISHED),
    "no checkpoint in an hour": ("CheckpointTooOld", 60, None, UNFINISHED),
    "a late attempt without a checkpoint": (
        "CheckpointTooOld",
        200,
        None,
        [
            stage("step", "5x100 _x900"),
            stage("step", "_x150 5x900", pod="p-2"),
            stage("max_steps", "100x900"),
        ],
    ),
    "a fresh checkpoint": (
        "CheckpointTooOld",
        200,
        None,
        [stage("checkpoint_timestamp_seconds", "0+60x900"), *UNFINISHED],
    ),
    "the last checkpoint": (
        "CheckpointTooOld",
        200,
        None,
        [stage("checkpoint_timestamp_seconds", "0x900"), *DONE],
    ),
    "an evaluation saves nothing": (
        "CheckpointTooOld",
        200,
        None,
        [
            stage("step", "5x900", stage="evaluation"),
            stage("max_steps", "100x900", stage="evaluation"),
        ],
    ),
    "a dead watch": (
        "OperatorDeaf",
        10,
        {"namespace": "coldstart-system", "source": "watch"},
        [
            operator("silence_seconds", "0 0 60 120 180 _ 0x600", source="watch"),
            operator("silence_seconds", "1x600", source="worker"),
        ],
    ),
    "it hears": (
        "OperatorDeaf",
        15,
        None,
        [operator("silence_seconds", "0 30 60 90 0x600", source="watch")],
    ),
    "nothing is told": ("OperatorDown", 20, {}, []),
    "it was upgraded": (
        "OperatorDown",
        20,
        None,
        [operator("silence_seconds", "0 _x12 0x600", source="watch")],
    ),
    "a run that is refused all the time": (
        "LooksFail",
        90,
        {"namespace": "coldstart-system", "reason": "Forbidden"},
        [operator("reconcile_errors_total", "0+0.5x600", reason="Forbidden")],
    ),
    "a bad quarter of an hour": (
        "LooksFail",
        60,
        None,
        [operator("reconcile_errors_total", "0 3 6 7 8x600", reason="Forbidden")],
    ),
    "it waits for quota": (
        "LooksFail",
        90,
        None,
        [operator("reconcile_errors_total", "0+0.5x600", reason="QuotaExceeded")],
    ),
    "a gate": (
        "GateRefused",
        10,
        {**RUN, "namespace": "ml", "reason": "GateRefused"},
        failed("GateRefused"),
    ),
    "a gate of yesterday": ("GateRefused", 400, None, failed("GateRefused")),
    "another error": ("GateRefused", 10, None, failed("DatasetInvalid")),
    "lost once too often": (
        "RetriesExhausted",
        10,
        {**RUN, "namespace": "ml", "reason": "WorkerLost"},
        failed("WorkerLost"),
    ),
    "lost once, tried again": (
        "RetriesExhausted",
        10,
        None,
        [run("info", "1x900", phase="GRPOBackoff", reason="Backoff")],
    ),
    "no retry would help": ("RetriesExhausted", 10, None, failed("DatasetInvalid")),
    "a wrong data set": (
        "RunFailed",
        10,
        {**RUN, "namespace": "ml", "reason": "DatasetInvalid"},
        failed("DatasetInvalid"),
    ),
    "a gate has an alert of its own": ("RunFailed", 10, None, failed("GateRefused")),
    "a lost worker has one, too": ("RunFailed", 10, None, failed("WorkerLost")),
    "a wrong data set of yesterday": ("RunFailed", 400, None, failed("DatasetInvalid")),
}


def text(name, labels):
    inner = ",".join(f'{key}="{value}"' for key, value in labels.items())
    return f"{name}{{{inner}}}"


def unit_test(name):
    """A case as promtool has it; the annotations are checked elsewhere."""
    alert, minute, labels, series = CASES[name]
    return {
        "name": name,
        "interval": "1m",
        "input_series": [
            {"series": text(metric, found), "values": values} for metric, found, values in series
        ],
        "alert_rule_test": [
            {
                "alertname": f"Coldstart{alert}",
                "eval_time": f"{minute}m",
                "exp_alerts": []
                if labels is None
                else [{"exp_labels": {"severity": ALERTS[alert].severity, **labels}}],
            }
        ],
    }


def bare_rule(name):
    """An alert's rule without annotations, which every expectation would have to repeat."""
    (rule,) = (
        rule
        for path in RULES.glob("*.yaml")
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
        if rule["alert"] == f"Coldstart{name}"
    )
    del rule["annotations"]
    return {"groups": [{"name": "one", "rules": [rule]}]}


def judged(place, name):
    """What promtool says of the cases of an alert, and its exit code."""
    (place / "rule.yaml").write_text(yaml.safe_dump(bare_rule(name)))
    document = {
        "rule_files": ["rule.yaml"],
        "evaluation_interval": "5m",
        "tests": [unit_test(case) for case, found in CASES.items() if found[0] == name],
    }
    (place / "cases.test").write_text(yaml.safe_dump(document))
    command = ["promtool", "test", "rules", str(place / "cases.test")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@needs_promtool
@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_fires_where_it_should_and_nowhere_else(name, tmp_path):
    code, said = judged(tmp_path, name)
    assert code == 0, said


@needs_promtool
def test_a_case_that_is_wrong_is_seen(tmp_path, monkeypatch):
    alert, minute, _, series = CASES["a policy that has left"]
    monkeypatch.setitem(CASES, "a policy that has left", (alert, minute, None, series))
    code, said = judged(tmp_path, "KLBlowUp")
    assert code == 1
    assert "a policy that has left" in said


def test_every_alert_has_a_case_that_fires_and_one_that_does_not():
    told = {(alert, labels is not None) for alert, _, labels, _ in CASES.values()}
    assert told == {(name, fires) for name in ALERTS for fires in (True, False)}


@needs_promtool
def test_promtool_has_no_complaint():
    command = ["promtool", "check", "rules", *map(str, RULES.glob("*.yaml"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_what_it_is_about_and_what_to_do(name):
    alert = ALERTS[name]
    assert (PAGES / f"{alert.runbook}.md").is_file()
    assert f"Coldstart{name}" in (PAGES / f"{alert.runbook}.md").read_text()
    assert RUNBOOKS.startswith("https://")
    assert alert.why.endswith(".")
    assert alert.description.endswith(".")
    assert not alert.summary.endswith(".")


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_asks_only_for_what_is_told(name):
    asked = set(re.findall(r"coldstart_(\w+)", ALERTS[name].expr))
    own = {name.removesuffix("_sum").removesuffix("_count") for name in asked}
    assert asked
    assert {each for each in own if not each.startswith("operator_")} <= TABLE.keys()


COMMANDS = sorted(
    {
        command
        for page in PAGES.glob("*.md")
        for command in re.findall(r"kubectl coldstart ([^`\n]+)", page.read_text())
    }
)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_a_runbook_is_one(command):
    name, *arguments = command.split()
    context = main.commands[name].make_context(name, arguments)
    assert context.params["namespace"] == "NAMESPACE"


def test_every_page_belongs_to_an_alert():
    pages = {path.stem for path in PAGES.glob("*.md")} - {"README"}
    assert pages == {alert.runbook for alert in ALERTS.values()}


def test_an_error_is_told_by_one_alert():
    """GateRefused, an error that retries may cure, or any other: exactly one."""
    patterns = [
        re.search(r'reason(=~|!~|=)"([^"]+)"', ALERTS[name].expr).groups()
        for name in ("GateRefused", "RetriesExhausted", "RunFailed")
    ]
    for code in ErrorCode:
        hits = [bool(re.fullmatch(words, code)) is (sign != "!~") for sign, words in patterns]
        assert hits.count(True) == 1, code
