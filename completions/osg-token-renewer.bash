# shellcheck shell=bash
# Completion of osg-token-renewer and osg-token-renewer-setup for bash, with the package bash-completion.
# sed reads the names of tokens and accounts from the section headers of the configuration. That is quick, and
# prints nothing, even if the configuration has errors.

# Sets `config` and `command` (the first word that is not an option) from the words on the line so far.
_osg_token_renewer_line() {
    local i
    for ((i = 1; i < cword; i++)); do
        case ${words[i]} in
            --config) config=${words[++i]} ;;
            --config=*) config=${words[i]#*=} ;;
            [!-]*) command=${command:-${words[i]}} ;;
        esac
    done
}

# Prints the names of the sections [KIND NAME] of a main configuration file (empty: the default one) and its
# drop-ins, one a line. Run it in a subshell, because it sets options of the shell.
_osg_token_renewer_names() {
    local kind=$1 main=${2//[\\\'\"]/} file files=() header
    main=${main:-${OSG_TOKEN_RENEWER_CONFIG_PATH:-/etc/osg/token-renewer/config.ini}}
    [[ $main == \~/* ]] && main=$HOME/${main#\~/}
    [[ $main == */* ]] || main=./$main
    shopt -u failglob
    for file in "$main" "${main%/*}"/config.d/*.ini; do
        # Only regular files: sed could wait for a pipe for ever.
        [[ -f $file && -r $file ]] && files+=("$file")
    done
    ((${#files[@]})) || return
    header="^\[[[:blank:]]*${kind}[[:blank:]]\{1,\}\([^][:blank:]]\{1,\}\)[[:blank:]]*\].*"
    LC_ALL=C sed -n "s/$header/\1/p" "${files[@]}" 2>/dev/null
}

# Offers those names. compgen -W would execute code in them.
_osg_token_renewer_offer_names() {
    local name quoted
    while IFS= read -r name; do
        printf -v quoted %q "$name"
        [[ $name == "$cur"* || $quoted == "$cur"* ]] && COMPREPLY+=("$quoted")
    done < <(_osg_token_renewer_names "$@")
    __ltrim_colon_completions "$cur"
}

_osg_token_renewer() {
    local cur prev words cword split command='' config='' offered
    _init_completion -s -n : || return
    if [[ $prev == --config ]]; then
        _filedir
        return
    fi
    $split && return
    _osg_token_renewer_line
    case $command:$cur in
        :-*) offered="-h --help --version --config -v --verbose -q --quiet" ;;
        :*) offered="renew check status" ;;
        renew:-*) offered="-h --help --force --dry-run" ;;
        check:-*) offered="-h --help --strict" ;;
        status:-*) offered="-h --help --json" ;;
        renew:*)
            _osg_token_renewer_offer_names token "$config"
            return
            ;;
        *) return ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$offered" -- "$cur")
}

_osg_token_renewer_setup() {
    local cur prev words cword split command='' config='' offered
    _init_completion -s -n : || return
    case $prev in
        --config | --pw-file | --client-secret-file | --ca-file)
            _filedir
            return
            ;;
        --service-user)
            mapfile -t COMPREPLY < <(compgen -u -- "$cur")
            return
            ;;
        --issuer | --scope | --audience | --client-id | --timeout) return ;;
    esac
    $split && return
    if [[ $cur == -* ]]; then
        offered="-h --help --version -v --verbose --manual --client-credentials --reauthenticate --pw-file
            --create-pw-file --issuer --scope --audience --client-id --client-secret-file --ca-file --timeout
            --service-user --write-config --config"
        mapfile -t COMPREPLY < <(compgen -W "$offered" -- "$cur")
    elif [[ " ${words[*]} " == *" --reauthenticate "* ]]; then
        # Without --reauthenticate, the account is new.
        _osg_token_renewer_line
        _osg_token_renewer_offer_names account "$config"
    fi
}

complete -F _osg_token_renewer osg-token-renewer
complete -F _osg_token_renewer_setup osg-token-renewer-setup
