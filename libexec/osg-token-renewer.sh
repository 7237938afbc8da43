#!/bin/sh
# The service and cron start this. It becomes the renewal program beside it.
exec "$(dirname "$(readlink -f "$0")")/osg-token-renewer" "$@"
