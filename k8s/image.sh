#!/usr/bin/env bash
# Builds the image with whichever builder is here: `make image`, or k8s/image.sh NAME:TAG [arguments of the builder].
# The time of the last commit stands in for the time of the build, so that the same commit gives the same image.
set -euo pipefail
cd "$(dirname "$0")/.."

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml | head -n 1)
tag=${1:-outrider:$version}
shift || true
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
common=(--file k8s/Dockerfile --build-arg "SOURCE_DATE_EPOCH=$SOURCE_DATE_EPOCH" --tag "$tag" "$@")

# A docker without its daemon is no builder.
if command -v docker >/dev/null && docker info >/dev/null 2>&1; then
    DOCKER_BUILDKIT=1 docker build "${common[@]}" .
    docker image inspect --format "$tag: {{.Size}} bytes" "$tag"
elif command -v podman >/dev/null; then
    podman build --timestamp "$SOURCE_DATE_EPOCH" "${common[@]}" .
    podman image inspect --format "$tag: {{.Size}} bytes" "$tag"
elif command -v buildah >/dev/null; then
    buildah build --timestamp "$SOURCE_DATE_EPOCH" "${common[@]}" .
    buildah inspect --type image --format "$tag: {{.FromImageID}}" "$tag"
else
    echo "make image: no builder here. It takes docker with a running daemon, podman or buildah." >&2
    exit 1
fi
