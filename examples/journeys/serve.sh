#!/usr/bin/env bash
# A cascade behind HTTP: from the demo to the dial.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
source "$here/beside.sh"

# -> docs/serving.md#in-ten-minutes
understudy demo --into demo
understudy build demo/result.json --into digits --allow-code understudy.app.demo
understudy serve digits --allow-code understudy.app.demo --state watch.db
# <-

python "$here/serve_client.py"

# -> docs/serving.md#in-ten-minutes
curl --fail --silent http://localhost:8000/v2/health/ready
curl --fail --silent -F image=@digit.png http://localhost:8000/classify
curl --fail --silent -X PUT -H "Content-Type: application/json" -d '{"max_drop": 3}' http://localhost:8000/operating-point
curl --fail --silent http://localhost:8000/metrics | grep operating_point
# <-

status=$(curl --fail --silent http://localhost:8000/status)
[[ $status == *'"chosen_by":"operator"'* ]]
page=$(curl --fail --silent http://localhost:8000/)
[[ $page == *"<html"* ]]
echo "reached: asked, classified, and switched to a cheaper operating point"
