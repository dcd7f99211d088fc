# syntax=docker/dockerfile:1.7
# The images of a release, from the root of the repository:
#   docker build --target operator --tag coldstart/operator:0.1.0 .
#   docker build --target trainer --tag coldstart/trainer:0.1.0 .
#   docker build --target trainer-cpu --tag coldstart/trainer-cpu:0.1.0 .
# Packages come from the lock files in images/ (`make lock`), with hashes and without their needs, which
# the locks have. The wheel is installed with no index at all: that fails the build where anything it
# needs is missing or of another version, and cannot change anything that is there. (DL3013 asks for its
# version, but there is one.)

ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm
# The newest vLLM that TRL 1.16 is tested with (0.22.0 to 0.31.0); torch 2.13.0 comes with it.
ARG VLLM_IMAGE=vllm/vllm-openai:v0.31.0


# The wheel, once for all images.
FROM ${PYTHON_IMAGE} AS wheel
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
RUN --mount=type=bind,source=images,target=/images \
    python -m pip install --no-cache-dir --no-deps --require-hashes --only-binary :all: \
    --requirement /images/build.txt
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY coldstart coldstart
COPY operator operator
COPY trainer trainer
RUN python -m pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels /src


FROM ${PYTHON_IMAGE} AS operator
ARG PYTHON_IMAGE
ARG VERSION=unreleased
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Coldstart operator" \
      org.opencontainers.image.description="Takes ReasoningRuns through SFT, GRPO and evaluation" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${PYTHON_IMAGE}"
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
RUN --mount=type=bind,source=images,target=/images \
    python -m pip install --no-cache-dir --no-deps --require-hashes --only-binary :all: \
    --requirement /images/operator.txt
# hadolint ignore=DL3013
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    python -m pip install --no-cache-dir --no-index --find-links /wheels 'coldstart-operator[operator]'
# The root may be read-only: byte code was written above, and nothing is written but to /tmp.
ENV HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 65532:65532
EXPOSE 8080 9090
ENTRYPOINT ["python", "-m", "coldstart_operator"]


FROM ${VLLM_IMAGE} AS trainer
ARG VLLM_IMAGE
ARG VERSION=unreleased
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Coldstart trainer" \
      org.opencontainers.image.description="Carries out the stages of a ReasoningRun on GPUs" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${VLLM_IMAGE}"
# hadolint ignore=DL3002
USER 0
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# Pods start `python`; the base promises `python3` only.
RUN command -v python || ln -s "$(command -v python3)" /usr/local/bin/python
# Neither lock has torch, torchvision, triton, vLLM or a library of CUDA: those stay the base's.
# DeepSpeed is published as source, and asks the torch that is there what it can do.
RUN --mount=type=bind,source=images,target=/images \
    export PIP_BREAK_SYSTEM_PACKAGES=1 DS_BUILD_OPS=0 && \
    python -m pip install --no-cache-dir --no-deps --require-hashes --only-binary :all: \
    --requirement /images/trainer.txt && \
    python -m pip install --no-cache-dir --no-deps --require-hashes --no-build-isolation \
    --requirement /images/trainer-source.txt
# hadolint ignore=DL3013
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    export PIP_BREAK_SYSTEM_PACKAGES=1 && \
    python -m pip install --no-cache-dir --no-index --find-links /wheels 'coldstart-operator[gpu]'
RUN install --directory --owner=1000 --group=1000 /home/coldstart
# torch asks for the user's name, which a bare number has not in the image's passwd.
ENV HOME=/home/coldstart \
    USER=coldstart \
    LOGNAME=coldstart \
    PYTHONUNBUFFERED=1 \
    VLLM_NO_USAGE_STATS=1
WORKDIR /home/coldstart
USER 1000:1000
EXPOSE 9400
ENTRYPOINT []
CMD ["python", "-m", "coldstart_trainer.launch"]


FROM ${PYTHON_IMAGE} AS trainer-cpu
ARG PYTHON_IMAGE
ARG VERSION=unreleased
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Coldstart trainer for CPUs" \
      org.opencontainers.image.description="Carries out the quickstart's stages without a GPU" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${PYTHON_IMAGE}"
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# The package index has builds for CUDA only, of several GB.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN python -m pip install --no-cache-dir --no-deps --only-binary :all: \
    --index-url "${TORCH_INDEX}" torch==2.13.0+cpu
RUN --mount=type=bind,source=images,target=/images \
    python -m pip install --no-cache-dir --no-deps --require-hashes --only-binary :all: \
    --requirement /images/trainer-cpu.txt
# hadolint ignore=DL3013
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    python -m pip install --no-cache-dir --no-index --find-links /wheels 'coldstart-operator[trainer]'
RUN install --directory --owner=1000 --group=1000 /home/coldstart
# Makes the quickstart's data and base model: python /opt/coldstart/quickstart/prepare.py --out DIR
COPY examples/quickstart /opt/coldstart/quickstart
ENV HOME=/home/coldstart \
    USER=coldstart \
    LOGNAME=coldstart \
    OMP_NUM_THREADS=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /home/coldstart
USER 1000:1000
EXPOSE 9400
CMD ["python", "-m", "coldstart_trainer.launch"]
