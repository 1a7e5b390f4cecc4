# The image of a worker, and of every `worker` command.
# linux/amd64: wordllama, with which the local engine embeds, has no Linux wheel for other machines.

FROM python:3.13-slim AS base

FROM base AS build
ENV PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore \
    UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_PROJECT_ENVIRONMENT=/opt/worker \
    UV_PYTHON_DOWNLOADS=never
RUN pip install uv==0.13.9
WORKDIR /source
# Dependencies change less often than the source, so they are a layer of their own.
COPY pyproject.toml uv.lock ./
RUN --mount=type=cache,target=/root/.cache/uv \
    uv sync --locked --no-dev --extra local --no-editable --no-install-project
COPY LICENSE README.md ./
COPY repositories ./repositories
COPY worker ./worker
RUN --mount=type=cache,target=/root/.cache/uv \
    uv sync --locked --no-dev --extra local --no-editable

FROM base
LABEL org.opencontainers.image.title="anythingllm-worker" \
      org.opencontainers.image.description="The worker tier for AnythingLLM" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="0.1.0"
# The folder is made here so that a new volume mounted on it belongs to the user.
RUN groupadd --gid 10001 worker \
    && useradd --uid 10001 --gid worker --no-create-home --home-dir /var/lib/worker --shell /usr/sbin/nologin worker \
    && install --directory --owner worker --group worker --mode 0750 /var/lib/worker /var/lib/worker/storage
COPY --from=build /opt/worker /opt/worker
ENV PATH=/opt/worker/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# Where STORAGE_URL has its default, the folder above.
WORKDIR /var/lib/worker
# A number, so that a platform can see that it is not root.
USER 10001:10001
CMD ["worker", "run"]
