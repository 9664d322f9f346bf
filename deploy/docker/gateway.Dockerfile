# The gateway: HTTP in front of a queen. It keeps nothing, so it needs no volume.
# Built from the root of the repository: docker build -f deploy/docker/gateway.Dockerfile -t beeyard/gateway .
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
RUN python -m venv /build && python -m venv --without-pip /opt/beeyard
# The packages before the code, so that a change of the code installs nothing anew.
COPY requirements/bootstrap.lock requirements/gateway.lock requirements/
RUN /build/bin/pip install --no-cache-dir --require-hashes -r requirements/bootstrap.lock \
    && /build/bin/uv pip install --no-cache --python /opt/beeyard/bin/python --require-hashes -r requirements/gateway.lock
COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY services services
COPY clients/python clients/python
RUN /build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels . \
    && /build/bin/uv pip install --no-cache --python /opt/beeyard/bin/python --no-deps /wheels/*.whl

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --home-dir /var/lib/beeyard --create-home beeyard
COPY --from=build /opt/beeyard /opt/beeyard
ENV PATH=/opt/beeyard/bin:$PATH \
    PYTHONUNBUFFERED=1
USER 10001
WORKDIR /var/lib/beeyard
# SIGTERM drains: nothing new, running answers may end, then the process exits.
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m", "beeyard_gateway"]
