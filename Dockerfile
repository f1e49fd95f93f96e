# The command line with the small model, on the CPU.
#   docker build -t audio-restore .
#   docker run --rm -v "$PWD:/data" audio-restore restore tape.mp3 -o restored.wav --cutoff 4000
FROM python:3.12-slim

RUN pip install --no-cache-dir 'torch>=2.6.0' --index-url https://download.pytorch.org/whl/cpu

WORKDIR /source
COPY setup.py pyproject.toml MANIFEST.in README.md LICENSE NOTICE ./
COPY conf conf
COPY nemo_audio_restore nemo_audio_restore
RUN pip install --no-cache-dir '.[metrics]' && rm -r /source

WORKDIR /data
ENTRYPOINT ["audio-restore"]
CMD ["--help"]
