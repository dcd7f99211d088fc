#!/usr/bin/env bash
# The quickstart on a cluster that kind makes on this machine. `make kind-up`, `make kind-demo` and
# `make kind-down` call it: they build the images before and have `coldstart` on the path.
set -euo pipefail
cd "$(dirname "$0")/../.."

CLUSTER=coldstart
CONTEXT=kind-$CLUSTER
NAMESPACE=coldstart-demo
RUN=quickstart
REPORT=dist/$RUN-report.html
HERE=examples/kind
# The last release of Kubeflow's training operator (v1), which has PyTorchJob.
KUBEFLOW="github.com/kubeflow/trainer.git/manifests/overlays/standalone?ref=v1.9.4"

usage() {
  cat >&2 <<END
usage: kind.sh check | up | demo | down
  up    VERSION=0.1.0, of the images; BACKEND=PyTorchJob adds Kubeflow's training operator (default: Job)
  demo  VERSION=0.1.0; writes dist/quickstart-report.html and opens it, unless CI is set
END
  exit 2
}

# Names every program that is missing, not only the first.
check() {
  local missing=0 program
  case ${BACKEND:=Job} in
    Job | PyTorchJob) ;;
    *)
      echo "BACKEND is Job or PyTorchJob, not $BACKEND" >&2
      exit 2
      ;;
  esac
  for program in docker kind kubectl helm; do
    command -v "$program" >/dev/null && continue
    echo "$program is not on the path: $(where "$program")" >&2
    missing=1
  done
  [ "$missing" = 0 ] || exit 1
  docker info >/dev/null 2>&1 || {
    echo "docker does not answer: start it, and see that you may use it (docker info)" >&2
    exit 1
  }
}

where() {
  case $1 in
    docker) echo "https://docs.docker.com/engine/install" ;;
    kind) echo "https://kind.sigs.k8s.io/docs/user/quick-start (0.32 or later)" ;;
    kubectl) echo "https://kubernetes.io/docs/tasks/tools" ;;
    helm) echo "https://helm.sh/docs/intro/install" ;;
  esac
}

k() {
  kubectl --context "$CONTEXT" "$@"
}

there() {
  grep -qx "$CLUSTER" <<<"$(kind get clusters 2>/dev/null)"
}

up() {
  check
  there || kind create cluster --config "$HERE/cluster.yaml" --wait 3m
  kind load docker-image --name "$CLUSTER" \
    "coldstart/operator:$VERSION" "coldstart/trainer-cpu:$VERSION"
  if [ "$BACKEND" = PyTorchJob ]; then
    k apply --server-side --kustomize "$KUBEFLOW"
    k --namespace kubeflow rollout status deployment/training-operator --timeout=5m
  fi
  k apply --filename "$HERE/namespaces.yaml"
  helm upgrade coldstart charts/coldstart --install --kube-context "$CONTEXT" \
    --namespace coldstart-system --values "$HERE/values.yaml" --wait --timeout 5m
}

demo() {
  check
  there || {
    echo "there is no cluster $CLUSTER: make kind-up" >&2
    exit 1
  }
  k apply --filename - <<<"$(sed "s|:VERSION$|:$VERSION|" "$HERE/storage.yaml")"
  k --namespace "$NAMESPACE" wait --for=condition=Complete --timeout=15m job/quickstart-prepare ||
    explain
  k --namespace "$NAMESPACE" apply --filename examples/quickstart/run.yaml
  coldstart status "$RUN" --watch --context "$CONTEXT" --namespace "$NAMESPACE" || explain
  mkdir -p dist
  coldstart report "$RUN" --context "$CONTEXT" --namespace "$NAMESPACE" --output "$REPORT"
  [ -n "${CI:-}" ] || python3 -m webbrowser "file://$PWD/$REPORT" || true
}

# What is there, for whoever has to find out why it did not go well.
explain() {
  k --namespace "$NAMESPACE" get rrun,jobs,pods,events >&2 || true
  k --namespace "$NAMESPACE" describe rrun "$RUN" >&2 || true
  k --namespace "$NAMESPACE" logs --selector app.kubernetes.io/name=coldstart-trainer --tail=50 >&2 ||
    true
  k --namespace coldstart-system logs --selector app.kubernetes.io/name=coldstart --tail=50 >&2 || true
  exit 1
}

case ${1:-} in
  check | down) ;;
  up | demo) : "${VERSION:?is the tag of the images; make kind-$1 sets it}" ;;
  *) usage ;;
esac
case $1 in
  check) check ;;
  up) up ;;
  demo) demo ;;
  down) kind delete cluster --name "$CLUSTER" ;;
esac
