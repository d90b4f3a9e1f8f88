# Two images. `servers`: Prefect's and MLflow's servers. `worker`: what runs the stages, with torch's CUDA build, which
# serves CPU and GPU alike (a CPU-only torch does not fit the torchvision that the index has).
FROM python:3.11.14-slim-bookworm AS base
ENV PATH=/opt/anodiff/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    UV_LINK_MODE=copy
RUN pip install --no-cache-dir uv==0.13.8 \
    && uv venv /opt/anodiff \
    && useradd --create-home --uid 1000 anodiff \
    && install -d -o anodiff -g anodiff /store /home/anodiff/.cache
WORKDIR /home/anodiff
COPY requirements.lock pyproject.toml /opt/

FROM base AS servers
RUN uv pip install --no-cache --python /opt/anodiff --constraint /opt/requirements.lock \
    prefect mlflow psycopg2-binary boto3
USER anodiff

FROM base AS worker
# Before the source, which changes more often than what it needs.
RUN uv pip install --no-cache --python /opt/anodiff --constraint /opt/requirements.lock \
    --requirement /opt/pyproject.toml --extra s3
COPY . /opt/source
RUN uv pip install --no-cache --python /opt/anodiff --no-deps /opt/source
USER anodiff
