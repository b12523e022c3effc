_clap_complete_dm_remap() {
    local IFS=$'\013'
    local _CLAP_COMPLETE_INDEX
    local _CLAP_COMPLETE_COMP_TYPE=${COMP_TYPE}
    if compopt +o nospace 2> /dev/null; then
        local _CLAP_COMPLETE_SPACE=false
    else
        local _CLAP_COMPLETE_SPACE=true
    fi
    # Words as the program gets them: readline cuts them at '=' and ':', too.
    local words=() rest="${COMP_LINE:0:COMP_POINT}" blanks piece joined=no i
    for ((i = 0; i <= COMP_CWORD; i++)); do
        blanks="${rest%%[![:blank:]]*}"
        rest="${rest#"$blanks"}"
        piece="${COMP_WORDS[i]}"
        ((i < COMP_CWORD)) || piece="$rest"
        rest="${rest#"$piece"}"
        if ((i > 0)) && [[ -z $blanks && ($piece == [=:]* || $joined == yes) ]]; then
            words[${#words[@]} - 1]+="$piece"
        else
            words+=("$piece")
        fi
        [[ $piece == *[=:] ]] && joined=yes || joined=no
    done
    _CLAP_COMPLETE_INDEX=$((${#words[@]} - 1))
    COMPREPLY=( $( \
        _CLAP_IFS="$IFS" \
        _CLAP_COMPLETE_INDEX="$_CLAP_COMPLETE_INDEX" \
        _CLAP_COMPLETE_COMP_TYPE="$_CLAP_COMPLETE_COMP_TYPE" \
        _CLAP_COMPLETE_SPACE="$_CLAP_COMPLETE_SPACE" \
        DM_REMAP_COMPLETE="bash" \
        PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin" "dm-remap" -- "${words[@]}" \
    ) )
    if [[ $? != 0 ]]; then
        unset COMPREPLY
    elif [[ $_CLAP_COMPLETE_SPACE == false ]] && [[ "${COMPREPLY-}" =~ [=/:]$ ]]; then
        compopt -o nospace
    fi
    # What readline has cut off it keeps, and must not get again.
    local whole="${words[_CLAP_COMPLETE_INDEX]}"
    [[ $piece != [=:]* ]] || piece=''
    COMPREPLY=("${COMPREPLY[@]#"${whole%"$piece"}"}")
}
if [[ "${BASH_VERSINFO[0]}" -eq 4 && "${BASH_VERSINFO[1]}" -ge 4 || "${BASH_VERSINFO[0]}" -gt 4 ]]; then
    complete -o nospace -o bashdefault -o nosort -F _clap_complete_dm_remap dm-remap
else
    complete -o nospace -o bashdefault -F _clap_complete_dm_remap dm-remap
fi
