"""What the images are made of: locks, entry points, users; with `make test-images` their packages.

No image is built for these tests. `make test-images` carries out the Dockerfile's own commands in
fresh virtual environments, for the operator and for CPUs; what the trainer's base lacks it only
downloads, since vLLM and CUDA are several GB.
"""

import ast
import fnmatch
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, requires
from importlib.util import find_spec
from pathlib import Path

import pytest
from charting import of_kind, rendered
from dockerfile import ROOT, TEXT, arguments, stages
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from coldstart import images
from coldstart.children.pod import HOME, METRICS_PORT, USER_ID
from coldstart_operator.settings import Settings

STAGES = stages()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
TARGETS = {
    "operator": (images.OPERATOR, "operator"),
    "trainer": (images.TRAINER, "gpu"),
    "trainer-cpu": (images.TRAINER_CPU, "trainer"),
}
"""The images' names and the extras that they install, by target."""

BASES = re.compile(r"torch|torchvision|torchaudio|vllm|triton|nvidia-.*|cuda-.*|flashinfer-.*")
"""What comes with torch and vLLM, and must stay as it came."""


def lock(name):
    return (ROOT / "images" / f"{name}.txt").read_text()


def pins(text):
    """The versions in a lock by name, and what is wrong with it as a lock."""
    entries = re.findall(r"^([a-z]\S*) ?\\?\n((?:    --hash.*\n?)*)", text, re.MULTILINE)
    found, wrong = {}, []
    for entry, hashes in entries:
        name, equals, version = entry.partition("==")
        if not equals:
            wrong.append(f"{entry} is not pinned")
        if "--hash=sha256:" not in hashes:
            wrong.append(f"{entry} has no hash")
        if BASES.fullmatch(name):
            wrong.append(f"{entry} is the base's")
        found[canonicalize_name(name)] = version
    return found, wrong


def unmet(pinned, wanted):
    """The requirements that a lock does not fulfil, what Dockerfile installs otherwise left out."""
    for one in map(Requirement, wanted):
        name = canonicalize_name(one.name)
        if name == "coldstart-operator" or BASES.fullmatch(name) or name == "deepspeed":
            continue
        if name not in pinned or not one.specifier.contains(pinned[name]):
            yield f"{one}: {pinned.get(name, 'is missing')}"


LOCKS = sorted(path.stem for path in (ROOT / "images").glob("*.txt"))


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_pins_everything_with_hashes_and_nothing_of_the_base(name):
    found, wrong = pins(lock(name))
    assert found
    assert wrong == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a>=1 \\\n    --hash=sha256:0\n", "not pinned"),
        ("a==1\n", "no hash"),
        ("torch==2.13.0 \\\n    --hash=sha256:0\n", "is the base's"),
        ("nvidia-nccl==2 \\\n    --hash=sha256:0\n", "is the base's"),
    ],
)
def test_a_bad_lock_is_seen(text, said):
    assert said in pins(text)[1][0]


@pytest.mark.parametrize("target", TARGETS)
def test_a_lock_has_what_its_extra_asks_for(target):
    pinned = pins(lock(target))[0]
    wanted = PROJECT["project"]["dependencies"] + EXTRAS[TARGETS[target][1]]
    if target != "operator":
        wanted += EXTRAS["trainer"]
    assert list(unmet(pinned, wanted)) == []
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    known = [line for line in constraints if Requirement(line.partition("#")[0] or "x")]
    chosen = [line for line in known if re.split("==", line)[0] in pinned]
    assert list(unmet(pinned, chosen)) == []
    assert list(unmet(pinned, ["click>=99"])) == [f"click>=99: {pinned['click']}"]


def test_torch_and_vllm_are_those_that_everything_is_tested_with():
    torch = re.search(r"torch==(\S+?)\+cpu", TEXT)[1]
    assert f"torch=={torch}" in (ROOT / "constraints.txt").read_text().splitlines()
    tag = arguments()["VLLM_IMAGE"].partition(":v")[2]
    tested = [one for one in map(Requirement, requires("trl")) if one.name == "vllm"]
    assert tested
    assert all(one.specifier.contains(tag) for one in tested)
    assert not any(one.specifier.contains("0.99.0") for one in tested)


@pytest.mark.parametrize("argument", ["PYTHON_IMAGE", "VLLM_IMAGE"])
def test_bases_are_pinned_by_a_whole_version(argument):
    assert re.search(r":v?\d+\.\d+\.\d+(-|$)", arguments()[argument])


@pytest.mark.parametrize("target", TARGETS)
def test_labels_names_and_extras(target):
    name, extra = TARGETS[target]
    assert f"--target {target} --tag {images.tagged(name)} ." in TEXT
    for label in ("title", "description", "licenses", "version", "revision", "base.name"):
        assert f"org.opencontainers.image.{label}=" in STAGES[target].last("LABEL")
    last = STAGES[target].packages()[-1]
    assert "--no-index" in last
    assert last.endswith(f"'coldstart-operator[{extra}]'")


def test_users_are_those_that_pods_run_as():
    (deployment,) = of_kind(rendered(), "Deployment")
    user = deployment["spec"]["template"]["spec"]["securityContext"]["runAsUser"]
    assert STAGES["operator"].last("USER") == f"{user}:{user}"
    for target in ("trainer", "trainer-cpu"):
        assert STAGES[target].last("USER") == f"{USER_ID}:{USER_ID}"
        assert f"HOME={HOME}" in STAGES[target].last("ENV")


def test_ports_and_commands_are_those_of_the_programs():
    ports = f"{Settings.health_port} {Settings.metrics_port}"
    assert STAGES["operator"].last("EXPOSE") == ports
    commands = {"operator": ("ENTRYPOINT", "coldstart_operator")}
    for target in ("trainer", "trainer-cpu"):
        assert STAGES[target].last("EXPOSE") == str(METRICS_PORT)
        commands[target] = ("CMD", "coldstart_trainer.launch")
    for target, (instruction, module) in commands.items():
        command = json.loads(STAGES[target].last(instruction))
        assert command == ["python", "-m", module]
        assert find_spec(module)


def ignored(path):
    """Whether `.dockerignore` keeps a path from the build; the last pattern that fits decides."""
    found = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        parts = [str(one) for one in (path, *path.parents)]
        if not line.startswith("#") and any(fnmatch.fnmatch(one, pattern) for one in parts):
            found = not line.startswith("!")
    return found


def test_what_is_copied_is_there_and_sent_to_the_build():
    sources = [
        Path(one) for stage in STAGES.values() for copy in stage.files() for one in copy[:-1]
    ]
    assert {Path("coldstart"), Path("examples/quickstart")} <= set(sources)
    assert [path for path in (*sources, Path("images")) if not (ROOT / path).exists()] == []
    assert [path for path in (*sources, Path("images")) if ignored(path)] == []
    for name in (".git", "tests", ".venv", "examples/paper-7b.yaml", "examples/quickstart/build"):
        assert ignored(Path(name)), name
    roots = {
        Path(name).parts[0]
        for name in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    }
    assert {Path(name) for name in roots} <= set(sources)


OPTIONAL = {"vllm", "helm_python", "packaging"}
"""What is imported only where it is there: vLLM comes with the GPU image; Helm's engine is for
`make generate`; TRL, which brings `packaging`, is asked for first (`coldstart.engine`)."""


def imported(*packages):
    """The distributions that packages of ours import, anywhere in their code."""
    distributions, found = packages_distributions(), set()
    for path in (path for package in packages for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            tops = {name.partition(".")[0] for name in names} - OPTIONAL
            for top in tops - sys.stdlib_module_names:
                found.update(map(canonicalize_name, distributions.get(top, [top])))
    ours = {"coldstart", "coldstart-operator", "coldstart-trainer"}
    return {name for name in found if name not in ours and not BASES.fullmatch(name)}


@pytest.mark.parametrize("target", TARGETS)
def test_a_lock_has_what_the_code_imports(target):
    package = "operator" if target == "operator" else "trainer"
    pinned = pins(lock(target))[0]
    found = imported("coldstart", f"{package}/coldstart_{package}")
    assert {"pydantic", "prometheus-client"} <= found
    # The report makes pictures smaller where Pillow is, and the operator draws no report.
    assert found - pinned.keys() - {"pillow"} == set()
    assert imported("trainer/coldstart_trainer") - pins(lock("build"))[0].keys()


BUILT = pytest.mark.skipif(
    "COLDSTART_TEST_IMAGES" not in os.environ,
    reason="installs some GB into fresh environments: make test-images",
)


def environment(stage, folder, wheels):
    """A virtual environment in which a stage's packages were installed by its own commands."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    index = re.findall(r"^TORCH_INDEX=(\S+)", "\n".join(stage.all("ARG")), re.MULTILINE)
    variables = os.environ | {"PATH": f"{folder}/bin:{os.environ['PATH']}"}
    variables.pop("PYTHONPATH", None)
    variables.setdefault("TORCH_INDEX", (index or [""])[0])
    places = {"/images": ROOT / "images", "/wheels": wheels, "/src": ROOT}
    for command in stage.packages():
        here = re.sub(r"(?<=\s)/\w+", lambda at: shlex.quote(str(places[at[0]])), command)
        subprocess.run(["bash", "-euo", "pipefail", "-c", here], env=variables, check=True)
    return folder / "bin" / "python"


@pytest.fixture(scope="session")
def wheels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheels")
    environment(STAGES["wheel"], tmp_path_factory.mktemp("wheel"), folder)
    return folder


PROGRAM = """
import importlib, pkgutil, sys
without, *names = sys.argv[1:]
for name in names:
    package = importlib.import_module(name)
    for item in pkgutil.walk_packages(package.__path__, name + "."):
        if not item.name.endswith("__main__") and item.name != without:
            importlib.import_module(item.name)
            print(item.name)
"""


def says(python, *arguments, code=0):
    """What a program prints in an environment, away from the repository."""
    done = subprocess.run(
        [python, *arguments], cwd=python.parent, capture_output=True, text=True, check=False,
        env={"PATH": os.environ["PATH"], "HOME": str(python.parent)},
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


@BUILT
@pytest.mark.timeout(1800)
def test_the_operators_packages(tmp_path, wheels):
    python = environment(STAGES["operator"], tmp_path / "operator", wheels)
    found = says(python, "-c", PROGRAM, "", "coldstart", "coldstart_operator")
    assert "coldstart_operator.webhook" in found
    assert "--webhook-port" in says(python, "-m", "coldstart_operator", "--help")
    assert images.tagged("").removeprefix(":") in says(python.parent / "coldstart", "--version")
    says(python, "-c", "import torch", code=1)


@BUILT
@pytest.mark.timeout(1800)
def test_the_gpu_trainers_packages_are_there_for_the_python_of_its_base(tmp_path):
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--only-binary", ":all:", "--python-version", "3.12", "--dest", tmp_path]
    for tag in ("manylinux_2_28", "manylinux_2_17", "manylinux2014"):
        command += ["--platform", f"{tag}_x86_64"]
    subprocess.run([*command, "--requirement", ROOT / "images" / "trainer.txt"], check=True)
    assert len(list(tmp_path.glob("*.whl"))) == len(pins(lock("trainer"))[0])


@BUILT
@pytest.mark.timeout(1800)
def test_the_cpu_trainers_packages(tmp_path, wheels):
    python = environment(STAGES["trainer-cpu"], tmp_path / "trainer", wheels)
    needs_vllm = "coldstart_trainer.rollout.engine"
    found = says(python, "-c", PROGRAM, needs_vllm, "coldstart", "coldstart_trainer")
    assert "coldstart_trainer.grpo" in found
    assert "COLDSTART_ORDER is not set" in says(python, "-m", "coldstart_trainer", code=2)
    quickstart = ROOT / "examples" / "quickstart"
    says(python, quickstart / "prepare.py", "--out", tmp_path / "build")
    assert (tmp_path / "build" / "model" / "config.json").exists()
