"""The demo on kind, which is not run here: its files fit each other, the chart and the images."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import kube_schema
import pytest
import yaml
from charting import of_kind, rendered
from dockerfile import stages
from pod_security import violations

from coldstart import __version__, images
from coldstart.children.backend import BACKENDS
from coldstart.children.pod import USER_ID
from coldstart.cli import main
from coldstart.runfile import load

ROOT = Path(__file__).parents[2]
HERE = ROOT / "examples" / "kind"
SCRIPT = HERE / "kind.sh"
TEXT = SCRIPT.read_text()
RUN = load(ROOT / "examples" / "quickstart" / "run.yaml")
VALUES = yaml.safe_load((HERE / "values.yaml").read_text())
STORAGE = list(yaml.safe_load_all((HERE / "storage.yaml").read_text()))
NAMESPACES = list(yaml.safe_load_all((HERE / "namespaces.yaml").read_text()))
CLAIM, PREPARE = STORAGE
SYSTEM = ("dirname", "grep", "mkdir", "sed", "sh")
PROGRAMS = {"docker", "kind", "kubectl", "helm", "coldstart"}


@pytest.fixture
def machine(tmp_path):
    """Runs the script where the programs that it calls only note what they were told.

    Called with the script's arguments, the names of programs to leave out, and patterns of calls
    that shall fail; returns exit code, calls and what was said.
    """
    notes = tmp_path / "notes"

    def run(*arguments, without=(), failing="none", **environment):
        folder = tmp_path / "bin"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name in SYSTEM:
            (folder / name).symlink_to(shutil.which(name))
        for name in PROGRAMS - set(without):
            (folder / name).write_text(
                f'#!/bin/sh\nline="{name} $*"\necho "$line" >>{notes}\n'
                'case $line in "kind get clusters") echo coldstart ;; esac\n'
                f"case $line in {failing}) exit 1 ;; esac\n"
            )
            (folder / name).chmod(0o755)
        notes.write_text("")
        done = subprocess.run(
            [shutil.which("bash"), SCRIPT, *arguments],
            env={"PATH": str(folder), "VERSION": __version__, "CI": "true", **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, notes.read_text().splitlines(), done.stderr

    return run


def test_every_object_is_what_kubernetes_knows():
    for item in (*STORAGE, *NAMESPACES):
        kube_schema.check(item)


def test_its_pods_are_let_into_its_namespaces():
    for namespace in NAMESPACES:
        assert namespace["metadata"]["labels"] == {
            "pod-security.kubernetes.io/enforce": "restricted"
        }
    names = {namespace["metadata"]["name"] for namespace in NAMESPACES}
    assert {item["metadata"]["namespace"] for item in STORAGE} <= names
    assert violations(PREPARE["spec"]["template"]) == []


def test_the_images_are_those_that_are_built_and_loaded():
    (deployment,) = of_kind(rendered(VALUES), "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == images.tagged(images.OPERATOR)
    assert container["imagePullPolicy"] == "Never"
    assert f"--image={images.tagged(images.TRAINER_CPU)}" in container["args"]
    (prepare,) = PREPARE["spec"]["template"]["spec"]["containers"]
    told = prepare["image"].replace(":VERSION", f":{__version__}")
    assert told == images.tagged(images.TRAINER_CPU)
    for repository in (images.OPERATOR, images.TRAINER_CPU):
        assert f'"{repository}:$VERSION"' in TEXT
    make = (ROOT / "Makefile").read_text()
    assert "$(MAKE) images IMAGES='operator trainer-cpu'" in make


def test_the_data_are_made_by_the_images_script_where_the_run_looks():
    pod = PREPARE["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    _, script, option, folder = container["command"]
    copied = stages()["trainer-cpu"].files()
    assert ["examples/quickstart", str(Path(script).parent)] in copied
    assert (ROOT / "examples" / "quickstart" / Path(script).name).is_file()
    assert (option, Path(folder).name) == ("--out", Path(RUN.spec.model.name).parts[0])
    assert pod["securityContext"]["runAsUser"] == USER_ID
    assert CLAIM["metadata"]["name"] == RUN.spec.storage.claim_name
    (claim,) = (one for one in pod["volumes"] if "persistentVolumeClaim" in one)
    assert claim["persistentVolumeClaim"]["claimName"] == RUN.spec.storage.claim_name
    assert RUN.metadata.name == re.search(r"^RUN=(.*)$", TEXT, re.MULTILINE)[1]


def test_the_script_names_what_is_there():
    assert os.access(SCRIPT, os.X_OK)
    named = set(re.findall(r"\$HERE/([\w.]+)", TEXT))
    assert named == {path.name for path in HERE.glob("*.yaml")}
    assert all((ROOT / path).exists() for path in re.findall(r"(?:charts|examples)/[\w./-]+", TEXT))
    cluster = yaml.safe_load((HERE / "cluster.yaml").read_text())
    assert cluster["name"] == re.search(r"^CLUSTER=(.*)$", TEXT, re.MULTILINE)[1]
    assert all("@sha256:" in node["image"] for node in cluster["nodes"])
    assert re.search(r"\?ref=v\d+\.\d+\.\d+\"", TEXT)
    assert f"{' | '.join(sorted(kind.name for kind in BACKENDS))})" in TEXT


def place(calls, words):
    """Where the call with these words is."""
    (found,) = (index for index, call in enumerate(calls) if words in call)
    return found


def test_every_program_that_is_missing_is_named(machine):
    code, _, said = machine("check", without=("docker", "helm"))
    assert code == 1
    assert [line.split()[0] for line in said.splitlines()] == ["docker", "helm"]
    assert all("https://" in line for line in said.splitlines())


def test_a_docker_that_does_not_answer_is_said(machine):
    code, _, said = machine("up", failing='"docker info"')
    assert (code, said.split(":")[0]) == (1, "docker does not answer")


def test_the_cluster_has_images_and_namespaces_before_the_chart(machine):
    code, calls, said = machine("up")
    assert code == 0, said
    loaded, labelled = place(calls, "kind load"), place(calls, "namespaces.yaml")
    assert loaded < labelled < place(calls, "helm upgrade")
    assert not any("kubeflow" in call for call in calls)
    assert all("--context kind-coldstart" in call for call in calls if call[:7] == "kubectl")


def test_kubeflows_operator_is_there_before_ours(machine):
    code, calls, said = machine("up", BACKEND="PyTorchJob")
    assert code == 0, said
    assert place(calls, "kubeflow/trainer.git") < place(calls, "rollout status")
    assert place(calls, "rollout status") < place(calls, "helm upgrade")


def test_a_backend_that_there_is_not_is_refused(machine):
    code, calls, said = machine("up", BACKEND="TrainJob")
    assert code == 2
    assert "BACKEND is Job or PyTorchJob, not TrainJob" in said
    assert calls == []


def test_the_demo_ends_with_the_report(machine, tmp_path):
    code, calls, said = machine("demo")
    assert code == 0, said
    assert place(calls, "job/quickstart-prepare") < place(calls, "quickstart/run.yaml")
    assert place(calls, "quickstart/run.yaml") < place(calls, "coldstart status")
    assert "coldstart report" in calls[-1]
    assert "webbrowser" not in " ".join(calls)


@pytest.mark.parametrize("failing", ['*"job/quickstart-prepare"', '"coldstart status"*'])
def test_a_demo_that_fails_says_why_and_fails(machine, failing):
    code, calls, _ = machine("demo", failing=failing)
    assert code == 1
    assert any("describe rrun quickstart" in call for call in calls)
    assert not any("coldstart report" in call for call in calls)


def test_commands_and_options_are_those_of_our_own_command_line(machine):
    _, calls, _ = machine("demo")
    for call in calls:
        if call.startswith("coldstart "):
            name, *arguments = call.split()[1:]
            main.commands[name].make_context(name, arguments)


def test_a_published_chart_names_its_registry(tmp_path):
    helm = tmp_path / "bin" / "helm"
    helm.parent.mkdir()
    helm.write_text("#!/bin/sh\n")
    helm.chmod(0o755)
    subprocess.run(
        ["make", "chart", "REGISTRY=registry.example/me", f"DIST={tmp_path}"],
        env={"PATH": f"{helm.parent}:{os.environ['PATH']}"},
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (deployment,) = of_kind(rendered(chart=tmp_path / "chart" / "coldstart"), "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"registry.example/me/{images.tagged(images.OPERATOR)}"
    assert f"--image=registry.example/me/{images.tagged(images.TRAINER)}" in container["args"]
