#!/bin/sh
# Follows runs with the `nats` command, live:
#
#   follow.sh                     all runs, from now on
#   follow.sh site-a.rollout-42   one run: SUBJECT_ID.IDENT
#   follow.sh --all [RUN]         the same, with what the stream RUNS has kept so far
#
# NATS_URL says where the server is (or `nats context`). More arguments go to `nats subscribe`.
set -eu

stream=
if [ "${1-}" = --all ]; then
    stream=yes
    shift
fi

run='>'
case ${1-} in
'' | -*) ;;
*)
    run="$1.*" # its events and its statuses
    shift
    ;;
esac

if [ "$stream" ]; then
    set -- --stream "${STREAM:-RUNS}" --all "$@"
fi
exec nats subscribe "pub.ansible.runner.$run" "$@"
