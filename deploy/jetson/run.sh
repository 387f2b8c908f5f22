#!/usr/bin/env bash
# Starts the container of deploy/jetson/Dockerfile, now and at each boot.
#
#   deploy/jetson/run.sh [LAUNCH ARGUMENT …]            logs: docker logs -f actrec; stop: docker rm -f actrec
#
# MODELS is the folder of packages, mounted as /models (default: ~/models); IMAGE is the image (default: actrec).
set -euo pipefail

models="${MODELS:-$HOME/models}"
mkdir -p "$models"
arguments=(
  --detach --name actrec --restart unless-stopped
  --runtime nvidia
  # Share the robot's network and /dev/shm, so that Fast DDS reaches nodes outside the container. A separate /dev/shm needs
  # --shm-size 1g: Docker's default of 64 MiB is too small for the 32 MiB segment of each node (config/fastdds.xml).
  --network host --ipc host --env ROS_DOMAIN_ID="${ROS_DOMAIN_ID:-0}"
  --cap-drop ALL --security-opt no-new-privileges
  # Groups of the GPU devices.
  --group-add video --group-add "$(getent group render | cut -d: -f3)"
  # Keep engines when the container is removed.
  --volume actrec-cache:/var/cache/actrec
  --volume "$models:/models:ro"
)
[ $# -gt 0 ] || set -- vendor:=realsense2_camera params_file:=/etc/actrec/recognizer.yaml composed:=true
exec docker run "${arguments[@]}" "${IMAGE:-actrec}" "$@"
