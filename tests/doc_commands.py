"""Commands in shell blocks of the docs: whether each exists, with the options that it is given."""

import re
import shlex
import tomllib
from collections.abc import Iterator

import click
from doc_pages import ROOT

from coldstart import cli

MAKEFILE = (ROOT / "Makefile").read_text()
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

KUBECTL_EVERYWHERE = {"-n", "--namespace", "--context", "--kubeconfig"}
KUBECTL = {
    "apply": {"-f", "-k", "--server-side", "--force-conflicts", "--dry-run"},
    "auth": {"--as"},
    "cp": {"-c"},
    "create": {"-f", "--from-literal", "--from-file", "--dry-run", "-o"},
    "delete": {"-f", "-l", "--wait", "--ignore-not-found", "--timeout"},
    "describe": {"-l", "-A"},
    "exec": {"-i", "-t", "-it", "-c"},
    "get": {"-o", "-l", "-w", "-A", "--raw", "--sort-by", "--show-labels"},
    "logs": {"-f", "-l", "-c", "-p", "--tail", "--previous", "--since", "--all-containers"},
    "patch": {"--patch-file", "--patch", "-p", "--type"},
    "port-forward": {"--address"},
    "rollout": {"-l", "--timeout", "--to-revision"},
    "wait": {"--for", "--timeout", "-l", "-f", "--all"},
}
"""Verbs of kubectl that the docs use, with the options that each has, of its own help."""

HELM_EVERYWHERE = {"-n", "--namespace", "--kube-context"}
_RELEASE = {"-f", "--values", "--set", "--set-string", "--version", "--wait", "--timeout"}
HELM = {
    "get": {"-a", "--all"},
    "history": set(),
    "install": _RELEASE | {"--create-namespace", "--dry-run"},
    "lint": {"-f", "--values", "--set", "--strict"},
    "list": {"-A", "--all-namespaces"},
    "rollback": {"--wait", "--timeout"},
    "show": {"--version"},
    "status": set(),
    "template": _RELEASE | {"--include-crds", "--show-only", "-s"},
    "uninstall": {"--wait", "--timeout", "--keep-history"},
    "upgrade": _RELEASE | {"--install", "-i", "--create-namespace", "--reuse-values"},
}
"""The same of Helm."""

OTHERS = {
    ".",
    "cd",
    "cosign",
    "cp",
    "curl",
    "docker",
    "export",
    "hf",
    "kind",
    "promtool",
    "python",
    "vllm",
}
"""Commands that are only parsed."""


def mistakes(block: str) -> list[str]:
    """What is wrong with the commands of a block; each with its command."""
    return [f"{shlex.join(words)}: {what}" for words in commands(block) for what in _wrong(words)]


def commands(block: str) -> Iterator[list[str]]:
    """The commands of a block as words, without comments and without variables set before them."""
    for line in block.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set("|&;"):
                if words:
                    yield words
                words = []
            elif words or not re.match(r"[A-Z_]+=", word):
                words.append(word)


def _wrong(words: list[str]) -> Iterator[str]:
    match words:
        case ["coldstart", *rest]:
            yield from _click(cli.main, rest)
        case ["kubectl", "coldstart", *rest]:
            yield from _click(cli.kubectl, rest)
        case ["python", "-m", "coldstart_operator", *rest]:
            from coldstart_operator.__main__ import main

            yield from _click(main, rest)
        case ["kubectl", *rest]:
            yield from _flags(rest, KUBECTL, KUBECTL_EVERYWHERE)
        case ["helm", *rest]:
            yield from _flags(rest, HELM, HELM_EVERYWHERE)
        case ["make", *targets]:
            yield from (f"no target {t}" for t in targets if f"\n{t}:" not in MAKEFILE)
        case ["pip", "install", *rest]:
            yield from _extras(rest)
        case [command, *_] if command not in OTHERS:
            yield f"{command} is not in tests/doc_commands.py"


def _click(command: click.Command, words: list[str]) -> Iterator[str]:
    """The mistakes of a command line of ours, without carrying anything out."""
    context = click.Context(command)
    try:
        given, rest, _ = command.make_parser(context).parse_args(list(words))
        if not isinstance(command, click.Group):
            for parameter in command.params:
                _convert(context, parameter, given.get(parameter.name))
    except click.UsageError as error:
        yield error.format_message()
        return
    if not isinstance(command, click.Group):
        yield from (f"unexpected {word}" for word in rest)
    elif rest and (child := command.get_command(context, rest[0])):
        yield from _click(child, rest[1:])
    elif rest:
        yield f"no command {rest[0]}"


def _convert(context: click.Context, parameter: click.Parameter, value: object) -> None:
    """Refuse a value that is missing or of the wrong type; whether a file exists is not asked."""
    if isinstance(value, (str, list, tuple)) and not isinstance(parameter.type, click.Path):
        parameter.type_cast_value(context, value)
    elif parameter.required and not isinstance(value, (str, list, tuple)):
        raise click.MissingParameter(ctx=context, param=parameter)


def _flags(words: list[str], verbs: dict[str, set[str]], everywhere: set[str]) -> Iterator[str]:
    own = words[: words.index("--")] if "--" in words else words
    verb = next((word for word in own if word in verbs), None)
    if verb is None:
        yield "no verb that tests/doc_commands.py knows"
        return
    for word in own:
        flag = word.split("=")[0]
        if word.startswith("-") and flag not in verbs[verb] | everywhere:
            yield f"{verb} has no option {flag} that tests/doc_commands.py knows"


def _extras(words: list[str]) -> Iterator[str]:
    for word in words:
        if found := re.fullmatch(r"coldstart-operator\[([\w,-]+)\]", word):
            yield from (f"no extra {e}" for e in found[1].split(",") if e not in EXTRAS)
        elif not word.startswith("-") and word != "coldstart-operator":
            yield f"{word} is not this project"
