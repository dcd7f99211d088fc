"""The stages of the Dockerfile, as far as tests ask for them; builds nothing."""

import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "Dockerfile").read_text()


@dataclass
class Stage:
    """One `FROM` and what follows it."""

    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)
    """Instructions with their arguments, in order."""

    def all(self, instruction):
        """The arguments of every such instruction."""
        return [rest for name, rest in self.steps if name == instruction]

    def last(self, instruction):
        """The arguments of the one that holds in the end."""
        return self.all(instruction)[-1]

    def packages(self):
        """The shell commands that install Python packages, in order."""
        commands = (re.sub(r"--mount=\S+\s+", "", text) for text in self.all("RUN"))
        return [text for text in commands if "pip" in text]

    def files(self):
        """What is copied from the repository: sources and destination."""
        copies = (text.split() for text in self.all("COPY"))
        return [words for words in copies if not words[0].startswith("--from")]


def arguments():
    """The defaults of the arguments before the first stage."""
    return dict(re.findall(r"^ARG (\w+_IMAGE)=(\S+)$", TEXT, re.MULTILINE))


def stages(text=TEXT):
    """Every stage by its name."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    found = {}
    for line in filter(None, joined.splitlines()):
        name, _, rest = line.partition(" ")
        if name == "FROM":
            base, stage = rest.split(" AS ")
            current = found[stage] = Stage(base)
        elif found:
            current.steps.append((name, " ".join(rest.split())))
    return found
