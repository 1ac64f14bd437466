#!/usr/bin/env bash
# Send a study to a Ray cluster, follow it to its end, and write the report:
#
#     examples/cluster/submit.sh http://HEAD:8265 s3://bucket/studies
#
# ADDRESS is the cluster's Jobs server; STORAGE is a place that every node and this machine reach. The study and the
# modules beside it travel with the job. If this machine goes away the job goes on; run the same command again to follow it.
set -euo pipefail
address=${1:?give the address of the cluster, such as http://HEAD:8265}
storage=${2:?give the storage, such as s3://bucket/studies or /shared/studies}
study="$(dirname "$0")/../own_problem/study.toml"

sensitivity submit "$study" --address "$address" --storage "$storage" --json > submitted.json
job=$(python3 -c 'import json; print(json.load(open("submitted.json"))["id"])')
sensitivity logs -f "$job" --address "$address"
sensitivity report "$storage/spirals" -o spirals.html
