"""The commands about the results of runs on this machine: compare them, grade them again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from coldstart.cli.options import DIRECTORY, RUN, mistake, run_root

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from coldstart.evaluation import JudgeModel
    from coldstart.summary import Regraded


@click.command()
@click.argument("names", metavar="RUN...", nargs=-1, required=True)
@DIRECTORY
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def compare(names: tuple[str, ...], directory: Path, as_json: bool) -> None:
    """Set the results of several runs side by side, with paired tests where problems agree."""
    from rich.console import Console

    from coldstart import report

    roots = [run_root(name, directory) for name in names]
    try:
        table = report.compare(roots)
        if as_json:
            click.echo(json.dumps(table.document()))
        else:
            Console().print(table)
    except (ValueError, OSError) as error:
        mistake(str(error))


@click.command()
@RUN
@DIRECTORY
@click.option("--matcher", type=click.Choice(["rule", "judge"]), help="Absent: the run's own.")
@click.option("--judge-url", help="The judge's OpenAI-compatible endpoint; absent: the run's.")
@click.option("--judge-model", help="What that endpoint calls the model.")
@click.option("--judge-key-env", help="The environment variable that holds the endpoint's key.")
def regrade(
    name: str,
    directory: Path,
    matcher: Literal["rule", "judge"] | None,
    judge_url: str | None,
    judge_model: str | None,
    judge_key_env: str | None,
) -> None:
    """Grade the kept responses of RUN again, without the model, and write its report.

    It says what became of the earlier grades. A judge is not asked again about what it has judged.
    """
    from rich.console import Console

    from coldstart.summary import regrade_run

    root = run_root(name, directory)
    console = Console()
    try:
        model = _judge_model(judge_url, judge_model, judge_key_env)
        for regraded in regrade_run(root, matcher or ("judge" if model else None), model):
            console.print(_summary(regraded), soft_wrap=True, highlight=False)
            console.print(_changes(regraded))
        conclude(root, console)
    except (ValueError, OSError, ImportError) as error:
        mistake(str(error))


def _judge_model(url: str | None, model: str | None, key: str | None) -> JudgeModel | None:
    from pydantic import ValidationError

    from coldstart.evaluation import JudgeModel
    from coldstart.schema import problems

    if url is None and model is None:
        return None
    try:
        return JudgeModel.model_validate({"baseUrl": url, "model": model, "apiKeyEnv": key})
    except ValidationError as error:
        mistake("\n".join(problems(error, "--judge-url, --judge-model, --judge-key-env: ")))


def _changes(regraded: Regraded) -> Table:
    """How many responses had which outcome, and which they have."""
    from rich.table import Table

    table = Table("before", "after", "responses")
    for (old, new), count in sorted(regraded.outcomes.items()):
        table.add_row(old, new, str(count), style=None if old == new else "bold")
    return table


def _summary(regraded: Regraded) -> str:
    result = regraded.result
    text = (
        f"{result.checkpoint} on {result.benchmark}, graded by {result.matcher}: "
        f"{regraded.changed} of {result.n} change between right and wrong"
    )
    if result.judge is None:
        return text
    cost = result.judge
    return (
        f"{text}; the judge was asked {cost.asked} times, read {cost.prompt_tokens} and wrote "
        f"{cost.completion_tokens} tokens; {cost.unclear} replies were neither yes nor no"
    )


def conclude(root: Path, console: Console) -> None:
    """Show a run's results and write its report.

    Raises:
        ValueError: one of its documents is damaged.
        OSError: the report cannot be written.
    """
    from coldstart.report import results_table, write_report

    console.print(results_table(root))
    console.print(f"report: {write_report(root)}", soft_wrap=True)
