#!/usr/bin/env bash
# How the committed report looks on a telephone and on paper: tools/report_pictures.sh [CHROMIUM]
#
# Writes docs/report-375.png (the top of the page in a window of 375 pixels) and docs/report-a4.png (the first page of
# its print on A4). Needs Chromium and pdftoppm.
set -eu -o pipefail
cd "$(dirname "$0")/.."
chromium=${1:-chromium}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
page=file://$PWD/python/rsn2/experiments/results/report.html

take() {
  "$chromium" --headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync \
    --disable-component-update --user-data-dir="$folder/profile" --hide-scrollbars "$@" "$page" 2>/dev/null
}

take --window-size=375,1900 --screenshot="$folder/small.png"
mv "$folder/small.png" docs/report-375.png
take --no-pdf-header-footer --print-to-pdf="$folder/report.pdf"
pdftoppm -r 90 -png -f 1 -l 1 -singlefile "$folder/report.pdf" docs/report-a4
