#!/bin/sh
# What the benchmarks compare with: one token after the other, as a script with oidc-agent or curl does it: reference.sh LIST
#
# A line of LIST has fields with a tab between, none of them empty:
#   account NAME PASSWORD_FILE                       loaded into the one agent
#   barely NAME PASSWORD_FILE                        the same, with no key derived that is not needed
#   token ACCOUNT AUDIENCE SCOPE FILE                asked of the agent
#   client URL CA_FILE ID SECRET AUDIENCE SCOPE FILE asked of the issuer by client credentials
set -eu
umask 077
tab=$(printf '\t')

save() {
    [ -n "$1" ] || exit 1
    printf '%s\n' "$1" >"$2"
}

if grep -Eq '^(account|barely)' "$1"; then
    eval "$(oidc-agent)" >/dev/null
    trap 'oidc-agent -k >/dev/null' EXIT
    # On a busy machine it takes a moment until it listens.
    tries=0
    until oidc-agent --status >/dev/null 2>&1 || [ $((tries += 1)) -gt 2000 ]; do sleep 0.05; done
fi
while IFS="$tab" read -r kind a b c d e f g; do
    case $kind in
    account) oidc-add --pw-store --pw-file="$b" "$a" >/dev/null ;;
    barely) oidc-add --pw-file="$b" "$a" >/dev/null ;;
    token) save "$(oidc-token --aud="$b" --scope="$c" "$a")" "$d" ;;
    client)
        answer=$(curl --silent --show-error --fail --cacert "$b" --user "$c:$d" --data grant_type=client_credentials \
            --data-urlencode "audience=$e" --data-urlencode "scope=$f" "$a")
        answer=${answer#*'"access_token":"'}
        save "${answer%%'"'*}" "$g"
        ;;
    esac
done <"$1"
