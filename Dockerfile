# docker build -t lora-studio .                        for a CPU
# docker build -t lora-studio --build-arg TORCH=cuda . for an NVIDIA GPU
FROM python:3.11-slim

ARG TORCH=cpu
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ libtcmalloc-minimal4 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --uid 1000 studio \
 && install -d -o studio -g studio /home/studio/data

WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY studio studio
COPY static static
COPY data data
# torch first: for a CPU from PyTorch's own index, whose build is a tenth of the size of the one with CUDA
RUN if [ "$TORCH" = cpu ]; then index="--index-url https://download.pytorch.org/whl/cpu"; fi \
 && pip install --no-cache-dir $index "$(grep '^torch==' constraints.txt | cut -d ' ' -f 1)" \
 && pip install --no-cache-dir -c constraints.txt .

USER studio
ENV STUDIO_HOME=/home/studio/data STUDIO_HOST=0.0.0.0
VOLUME /home/studio/data
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:7860/healthz', timeout=4)"]
CMD ["studio", "serve", "--sample"]
