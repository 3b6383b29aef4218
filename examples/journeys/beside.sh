# A server runs beside what follows, until the end of the script; sourced by the others.

understudy() {
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
