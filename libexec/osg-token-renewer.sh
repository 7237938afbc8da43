#!/bin/sh
# What osg-token-renewer.service starts: the renewal program beside this file. Its exit status is this one's.
exec "$(dirname "$(readlink -f "$0")")/osg-token-renewer" "$@"
