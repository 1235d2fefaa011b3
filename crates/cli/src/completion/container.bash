# bash completion for container. The program itself returns the candidates.
_container() {
    # bash also splits words at `=` and `:` (COMP_WORDBREAKS). Join what has no space between.
    local line=${COMP_LINE:0:COMP_POINT} index=-1 word words=()
    for word in "${COMP_WORDS[@]:0:COMP_CWORD+1}"; do
        if [[ $index -lt 0 || $line == [[:space:]]* ]]; then
            line=${line#"${line%%[![:space:]]*}"}
            index=$((index + 1))
        fi
        if ((${#word} > ${#line})); then
            word=$line
        fi
        line=${line#"$word"}
        words[index]+=$word
    done
    # bash replaces only the part of the word after the last `=` or `:`, so candidates must not
    # repeat what is before it.
    local known=${words[index]%"$2"}
    local IFS=$'\013'
    # shellcheck disable=SC2207
    COMPREPLY=($(
        _CLAP_IFS=$IFS _CLAP_COMPLETE_INDEX=$index CONTAINER_COMPLETE=bash \
            "${1/#\~/$HOME}" -- "${words[@]}" 2>/dev/null
    ))
    COMPREPLY=("${COMPREPLY[@]#"$known"}")
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=/:] ]]; then
        compopt -o nospace 2>/dev/null
    fi
}
complete -o bashdefault -F _container container
