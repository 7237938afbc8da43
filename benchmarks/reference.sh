#!/bin/sh
# The reference of the benchmarks: obtains one token after the other, as a script with oidc-agent or curl
# would: reference.sh LIST
#
# Each line of LIST has fields with a tab between them; no field may be empty:
#   account NAME PASSWORD_FILE                       load the account into the one agent
#   barely NAME PASSWORD_FILE                        the same, without the key derivation of --pw-store
#   token ACCOUNT AUDIENCE SCOPE FILE                ask the agent
#   client URL CA_FILE ID SECRET AUDIENCE SCOPE FILE ask the issuer by client credentials
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
    # It may take a moment until the agent listens.
    tries=0
    until oidc-agent --status >/dev/null 2>&1 || [ $((tries += 1)) -gt 2000 ]; do sleep 0.05; done
fi
while IFS="$tab" read -r kind a b c d e f g; do
    case $kind in
    account) oidc-add --pw-store --pw-file="$b" "$a" >/dev/null ;;
    barely) oidc-add --pw-file="$b" "$a" >/dev/null ;;
    token) save "$(oidc-token --aud="$b" --scope="$c" "$a")" "$d" ;;
    client)
        answer=$(curl --silent --show-error --fail --cacert "$b" --user "$c:$d" \
            --data grant_type=client_credentials \
            --data-urlencode "audience=$e" --data-urlencode "scope=$f" "$a")
        answer=${answer#*'"access_token":"'}
        save "${answer%%'"'*}" "$g"
        ;;
    esac
done <"$1"
