# shellcheck shell=bash
# Completion of osg-token-renewer and osg-token-renewer-setup for bash, with the package bash-completion.
# Names of tokens and accounts are read from the headers of the configuration's sections: no program is started but sed, so that it is
# quick and says nothing, whatever the configuration is like.

# What stands on the line already: sets `config`, and `command`, the first word that is no option.
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

# The names of the sections [KIND NAME] of a main configuration file (empty: the default one) and its drop-ins, a line each.
# Sets options of the shell: for a subshell.
_osg_token_renewer_names() {
    local kind=$1 main=${2//[\\\'\"]/} file files=()
    main=${main:-${OSG_TOKEN_RENEWER_CONFIG_PATH:-/etc/osg/token-renewer/config.ini}}
    [[ $main == \~/* ]] && main=$HOME/${main#\~/}
    [[ $main == */* ]] || main=./$main
    shopt -u failglob
    for file in "$main" "${main%/*}"/config.d/*.ini; do
        # A pipe could keep sed waiting for ever.
        [[ -f $file && -r $file ]] && files+=("$file")
    done
    ((${#files[@]})) || return
    LC_ALL=C sed -n "s/^\[[[:blank:]]*${kind}[[:blank:]]\{1,\}\([^][:blank:]]\{1,\}\)[[:blank:]]*\].*/\1/p" "${files[@]}" 2>/dev/null
}

# Offers those names. Not by compgen -W, which would execute what stands in them.
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
        offered="-h --help --version -v --verbose --manual --client-credentials --reauthenticate --pw-file --create-pw-file --issuer
            --scope --audience --client-id --client-secret-file --ca-file --timeout --service-user --write-config --config"
        mapfile -t COMPREPLY < <(compgen -W "$offered" -- "$cur")
    elif [[ " ${words[*]} " == *" --reauthenticate "* ]]; then
        # Otherwise the name is a new one.
        _osg_token_renewer_line
        _osg_token_renewer_offer_names account "$config"
    fi
}

complete -F _osg_token_renewer osg-token-renewer
complete -F _osg_token_renewer_setup osg-token-renewer-setup
