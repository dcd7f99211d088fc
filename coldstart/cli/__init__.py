"""The commands `coldstart` and `kubectl coldstart`; heavy imports wait until one needs them."""

from __future__ import annotations

import click

from coldstart.cli import data, files, looking, results, running, study
from coldstart.cli.options import CLUSTER

_HELP = {"help_option_names": ["-h", "--help"]}
_PACKAGE = "coldstart-operator"


@click.group(
    context_settings=_HELP,
    epilog="status, logs and report look for RUN in --dir (runs), or at a path; if it is not "
    "there, or with --namespace, --context or --kubeconfig, in the cluster.",
)
@click.version_option(package_name=_PACKAGE, prog_name="coldstart")
def main() -> None:
    """Train vision-language models that reason: SFT cold start, GRPO, evaluation, from one file."""


@click.group(
    name="kubectl coldstart",
    context_settings=_HELP,
    epilog="RUN is in the namespace of your kubeconfig's context, or with --dir on this machine.",
)
def kubectl(**where: str | None) -> None:
    """Look at ReasoningRuns in a cluster, and stop or resume them."""
    click.get_current_context().obj = where


@kubectl.command()
def version() -> None:
    """Print the version of this program."""
    from importlib.metadata import version as installed

    click.echo(installed(_PACKAGE))


def kubectl_main() -> None:
    """Run `kubectl coldstart`, which kubectl finds as `kubectl-coldstart`."""
    kubectl(prog_name="kubectl coldstart")


for _option in reversed(CLUSTER):
    kubectl = _option(kubectl)
_BOTH = (looking.status, looking.logs, looking.report, looking.suspend, looking.resume)
_OWN = (
    running.run,
    study.study,
    *files.COMMANDS,
    data.data,
    *_BOTH,
    results.compare,
    results.regrade,
)
for _command in _OWN:
    main.add_command(_command)
for _command in (*_BOTH, files.validate, files.render):
    kubectl.add_command(_command)
