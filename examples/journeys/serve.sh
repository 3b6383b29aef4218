#!/usr/bin/env bash
# A cascade behind HTTP: from the demo to the dial.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

understudy() { # a server runs beside what follows, until the end
    if [ "$1" != serve ]; then
        command understudy "$@"
        return
    fi
    command understudy "$@" > printed &
    trap 'kill -INT %1; wait' EXIT
    until grep --quiet "answers at" printed; do
        kill -0 %1
        sleep 0.2
    done
}

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
