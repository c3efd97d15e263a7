"""Completion scripts for shells. All words are in them, so that no Python starts when Tab is pressed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from aspo_megatron.cli.first_steps.completion_words import Command

Settings = Mapping[str, Sequence[str]]
"""Values that are known, by setting."""

_COMMAND_OF_SH = """\
    local command="" i={first} word
    while (( i < {here} )); do
        word="${{{words}[i]}}"
        case "$command $word" in
            *" -"*) ;;
            " "*) command="$word" ;;
            "convert "*) command="convert $word"; break ;;
        esac
        [[ -z $command || $command == convert ]] || break
        (( i += 1 ))
    done
"""
"""Shell: the command among the words before the one that is completed."""


def bash_script(commands: Sequence[Command], settings: Settings, version: str) -> str:
    """For bash 4 and later. With `=` in COMP_WORDBREAKS, as it is by default, KEY=VALUE is three words."""
    return f"""\
# Completion of aspo {version} in bash: source it, or write it to ~/.local/share/bash-completion/completions/aspo
_aspo() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" key="" words=""
    COMPREPLY=()
{_COMMAND_OF_SH.format(first=1, here="COMP_CWORD", words="COMP_WORDS")}\
    if [[ $current == "=" ]]; then
        key="$before" current=""
    elif [[ $before == "=" ]]; then
        key="${{COMP_WORDS[COMP_CWORD-2]}}"
    elif [[ $current == *=* ]]; then
        return
    fi
    if [[ -n $key ]]; then
        case "$key" in
{_cases(_values(settings))}\
        esac
    elif [[ $current == -* ]]; then
        case "$command" in
{_cases((each.name, _names(each)) for each in commands)}\
        esac
    else
        case "$command $before" in
{_cases(_valued(commands), patterns=True)}\
        *) case "$command" in
{_cases((each.name, [word for word, _ in each.words]) for each in commands)}\
            esac
            case "$command" in
            {_with_settings(commands)}) [[ -z $current ]] || words+=" {" ".join(f"{key}=" for key in settings)}" ;;
            esac ;;
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$current"))
    [[ ${{COMPREPLY[0]}} != *= ]] || compopt -o nospace 2> /dev/null
}}
complete -o bashdefault -o default -F _aspo aspo
"""


def zsh_script(commands: Sequence[Command], settings: Settings, version: str) -> str:
    """For zsh, as a file `_aspo` of a folder in `fpath`, or to be sourced after `compinit`."""
    return f"""\
#compdef aspo
# Completion of aspo {version} in zsh: write it to a file _aspo in a folder of fpath, or source it after compinit.
_aspo() {{
    local current="${{words[CURRENT]}}" before="${{words[CURRENT-1]}}" valued=yes
    local -a found
{_COMMAND_OF_SH.format(first=2, here="CURRENT", words="words")}\
    if [[ $current == -* ]]; then
        case "$command" in
{_cases(((each.name, _names(each)) for each in commands), array=True)}\
        esac
        compadd -a found
        return
    fi
    case "$command $before" in
{_cases(_valued(commands), array=True, patterns=True)}\
    *) valued="" ;;
    esac
    if [[ -n $valued ]]; then
        compadd -a found || _files
        return
    fi
    case "$command" in
{_cases(((each.name, [word for word, _ in each.words]) for each in commands), array=True)}\
    esac
    compadd -a found
    case "$command" in
    {_with_settings(commands)})
        if [[ $current == *=* ]]; then
            found=()
            case "${{current%%=*}}" in
{_cases(_values(settings), array=True)}\
            esac
            compset -P '*='
            compadd -a found
        elif [[ -n $current ]]; then
            found=({" ".join(f"{key}=" for key in settings)})
            compadd -S '' -a found
        fi ;;
    esac
    [[ -z $command || $command == convert ]] || _files
}}
if [[ ${{funcstack[1]}} == _aspo ]]; then _aspo "$@"; else compdef _aspo aspo; fi
"""


def fish_script(commands: Sequence[Command], settings: Settings, version: str) -> str:
    """For fish 3."""
    lines = [
        f"# Completion of aspo {version} in fish: write it to ~/.config/fish/completions/aspo.fish",
        "function __aspo_command",
        "    set -l command",
        "    for word in (commandline -opc)[2..-1]",
        "        string match -q -- '-*' $word; and continue",
        "        set -a command $word",
        "        test $command[1] = convert; or break",
        "        test (count $command) -lt 2; or break",
        "    end",
        "    echo (string join ' ' -- $command)",
        "end",
        "function __aspo_is",
        "    test (__aspo_command) = $argv[1]",
        "end",
        "function __aspo_settings",
        "    set -l token (commandline -ct)",
        "    switch $token",
        *(f"        case '{key}=*'\n            printf '%s\\n' {' '.join(full)}" for key, full in _full(settings)),
        "        case '*=*' ''",
        "        case '*'",
        f"            printf '%s\\n' {' '.join(f'{key}=' for key in settings)}",
        "    end",
        "end",
    ]
    for each in commands:
        here = f"complete -c aspo -n '__aspo_is \"{each.name}\"'"
        group = any(other.name.startswith(f"{each.name} ".lstrip()) for other in commands if other is not each)
        lines += [f"{here}{' -f' * group} -a {word} -d {_fish(meaning)}" for word, meaning in each.words]
        lines += [f"{here} -a '(__aspo_settings)'"] * each.settings
        for option in each.options:
            names = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names)
            value = f" -x -a '{' '.join(option.values)}'" if option.values else " -r" * option.takes_value
            lines.append(f"{here} {names}{value} -d {_fish(option.meaning)}")
    return "\n".join([*lines, ""])


def _names(command: Command) -> list[str]:
    return [name for option in command.options for name in option.names if name.startswith("--")]


def _values(settings: Settings) -> list[tuple[str, Sequence[str]]]:
    return [(key, values) for key, values in settings.items() if values]


def _full(settings: Settings) -> list[tuple[str, list[str]]]:
    return [(key, [f"{key}={value}" for value in values]) for key, values in _values(settings)]


def _valued(commands: Iterable[Command]) -> list[tuple[str, Sequence[str]]]:
    """By command and option, the values of the option; none where they are not known: they may be files."""
    found: list[tuple[str, Sequence[str]]] = []
    for command in commands:
        for option in command.options:
            if option.takes_value:
                found += [(f"{command.name} {name}", option.values) for name in option.names]
    return found


def _with_settings(commands: Iterable[Command]) -> str:
    return "|".join(f'"{each.name}"' for each in commands if each.settings)


def _cases(words: Iterable[tuple[str, Iterable[str]]], *, array: bool = False, patterns: bool = False) -> str:
    """Lines of a shell's `case`: what is set to which words. `patterns`: also where there are none."""
    lines = []
    for name, each in words:
        text = " ".join(each)
        if text or patterns:
            setting = f"found=({text})" if array else f'words="{text}"'
            lines.append(f'            "{name}") {setting} ;;\n')
    return "".join(lines)


def _fish(text: str) -> str:
    """The first part of a text, in single quotes."""
    first = re.split(r"(?<=[.;:]) ", " ".join(text.split()), maxsplit=1)[0]
    return "'" + first.rstrip(".;:").replace("\\", "\\\\").replace("'", "\\'") + "'"
