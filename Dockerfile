# CUDA:  docker build -t tilecascade .
# CPU:   docker build -t tilecascade --build-arg TORCH_INDEX=<URL of torch's index of CPU builds> .   (a fifth of the size)
FROM python:3.11-slim-bookworm AS build

ARG TORCH_INDEX=""
# cluster: for replicas on Ray and an object store (docs/scale.md)
ARG EXTRAS=""
WORKDIR /opt/tilecascade
COPY pyproject.toml README.md LICENSE deploy/constraints.txt deploy/requirements.lock ./
# wheels with known hashes where they are known, then torch, of which the builder chooses the kind
RUN python -m venv .venv \
    && if [ "$(uname -m)" = x86_64 ]; then .venv/bin/pip install --no-cache-dir --no-deps --require-hashes -r requirements.lock; fi \
    && .venv/bin/pip install --no-cache-dir --constraint constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch torchvision
COPY app app
COPY cache cache
COPY model model
RUN .venv/bin/pip install --no-cache-dir --constraint constraints.txt ".${EXTRAS:+[$EXTRAS]}"

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --create-home tilecascade \
    && install -d -o tilecascade -g tilecascade /var/lib/tilecascade \
    # where KubeRay looks for it
    && ln -s /opt/tilecascade/.venv/bin/ray /usr/local/bin/ray
COPY --from=build /opt/tilecascade/.venv /opt/tilecascade/.venv
USER 10001
WORKDIR /home/tilecascade
ENV TILECASCADE_DATA_DIR=/var/lib/tilecascade TILECASCADE_HOST=0.0.0.0 TILECASCADE_PORT=8000
VOLUME /var/lib/tilecascade
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s --retries=3 \
    CMD ["/opt/tilecascade/.venv/bin/python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["/opt/tilecascade/.venv/bin/tilecascade"]
CMD ["serve"]
