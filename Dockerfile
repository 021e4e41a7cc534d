# Three images from one wheel: docker build --target service|trainer|client -t hyperact-... .
ARG PYTHON_VERSION=3.12

FROM python:${PYTHON_VERSION}-slim AS wheel
WORKDIR /source
COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY protos protos
COPY service service
COPY trainer trainer
COPY clients clients
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:${PYTHON_VERSION}-slim AS base
ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    HYPERACT_DATA_DIR=/data
RUN useradd --create-home --uid 10001 hyperact && install -d -o hyperact -g hyperact /data
COPY constraints.txt /constraints.txt
COPY --from=wheel /wheels /wheels
VOLUME /data
WORKDIR /home/hyperact
ENTRYPOINT ["hyperact"]

# Answers Act. No torch in it.
FROM base AS service
ENV HYPERACT_ADDRESS=0.0.0.0:50051 \
    HYPERACT_METRICS_ADDRESS=0.0.0.0:9464 \
    HYPERACT_ALLOW_REMOTE=true \
    HYPERACT_LOG_FORMAT=json
RUN wheel=$(echo /wheels/*.whl) && pip install -c /constraints.txt "${wheel}[service,nats]"
USER 10001
EXPOSE 50051 9464
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["hyperact", "health"]
CMD ["serve"]

# Learns from the log. Which torch it gets is the builder's choice: by default the package index's; a CPU-only one with
# --build-arg EXTRA_INDEX_URL=<the index of CPU wheels>.
FROM base AS trainer
ARG EXTRA_INDEX_URL=""
RUN wheel=$(echo /wheels/*.whl) && \
    pip install -c /constraints.txt ${EXTRA_INDEX_URL:+--extra-index-url "$EXTRA_INDEX_URL"} "${wheel}[trainer,nats]"
USER 10001
CMD ["retrain"]

# Plays.
FROM base AS client
RUN wheel=$(echo /wheels/*.whl) && pip install -c /constraints.txt "${wheel}[clients]"
USER 10001
CMD ["play"]
