#!/usr/bin/env bash
# Copy a bundle to a Jetson, build its engine there, prove it, run it, and fetch the page with the proof.
#
#     examples/jetson/deploy.sh bundles/digits user@jetson [--batch 8 ...]
#
# The board needs this project installed in ~/stdl/.venv once (see README.md beside this file).
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: $0 BUNDLE USER@HOST [options of run.py]" >&2
    exit 2
fi
bundle=${1%/} board=$2
shift 2
if [ ! -f "$bundle/manifest.json" ]; then
    echo "error: '$bundle' is no bundle: give a folder that stdl-export wrote" >&2
    exit 2
fi
name=$(basename "$bundle")
here=$(cd "$(dirname "$0")" && pwd)

ssh "$board" mkdir -p stdl/bundles
# A bundle is checked by its hashes when it is opened, so a copy that broke off is noticed.
rsync --archive --delete "$bundle/" "$board:stdl/bundles/$name/"
rsync --archive "$here/run.py" "$board:stdl/run.py"
# shellcheck disable=SC2029  # the name and the options are meant to be put in here
ssh "$board" "cd stdl && .venv/bin/python run.py $(printf '%q ' "bundles/$name" --report "$name.html" "$@")"
rsync "$board:stdl/$name.html" "$name.html"
echo "proof: $name.html"
