#!/usr/bin/env bash
# Starts the container that jetson/Dockerfile makes, now and at each boot.
#
#   jetson/run.sh [LAUNCH ARGUMENT …]            more: docker logs -f actrec; docker rm -f actrec
#
# MODELS is the folder whose packages it sees under /models (default: ~/models), IMAGE the image (default: actrec).
set -euo pipefail

models="${MODELS:-$HOME/models}"
mkdir -p "$models"
arguments=(
  --detach --name actrec --restart unless-stopped
  --runtime nvidia
  # The robot's network and /dev/shm: Fast DDS reaches the nodes outside as if it ran among them. With a /dev/shm of its
  # own, Docker's 64 MiB would hold one of the 32 MiB segments of config/fastdds.xml too few: --shm-size 1g.
  --network host --ipc host
  # The GPU's devices belong to these groups of the robot.
  --group-add video --group-add "$(getent group render | cut -d: -f3)"
  # Engines outlive the container.
  --volume actrec-cache:/var/cache/actrec
  --volume "$models:/models:ro"
)
[ $# -gt 0 ] || set -- vendor:=realsense2_camera params_file:=/etc/actrec/recognizer.yaml composed:=true
exec docker run "${arguments[@]}" "${IMAGE:-actrec}" "$@"
