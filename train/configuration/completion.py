"""Completes groups, choices, keys and files in bash: `eval "$(python -m train --shell-completion install=bash)"`.

The script holds the words as of the moment it is printed; completion starts no python.
"""

from pathlib import Path

from train.configuration.flags import CONFIG_DIR, FLAGS
from train.configuration.groups import groups
from train.configuration.keys import hint_at, known_keys
from train.configuration.paths import is_path
from train.configuration.typed import is_section
from train.configuration.wording import choices

_SCRIPT = r"""
_ropewalk_words='{words}'
_ropewalk_complete() {{
  local line=${{COMP_LINE:0:COMP_POINT}} word cut found
  [[ $line =~ (-m|ropewalk)[[:space:]]+train[[:space:]] || $line =~ ropewalk[[:space:]].*[[:space:]]--[[:space:]] ]] ||
    return
  word=${{line##*[[:space:]]}}
  if [[ $word == [^-]*=* ]] && ! grep -q -- "^$word" <<<"$_ropewalk_words"; then
    mapfile -t COMPREPLY < <(compgen -f -- "${{word#*=}}")
    compopt -o filenames
    return
  fi
  mapfile -t COMPREPLY < <(compgen -W "$_ropewalk_words" -- "$word")
  # bash cuts words at "=": it replaces only what stands after it.
  [[ $word == *=* && $COMP_WORDBREAKS == *=* ]] && cut=${{word%=*}}=
  for found in "${{!COMPREPLY[@]}}"; do COMPREPLY[found]=${{COMPREPLY[found]#"$cut"}}; done
  [[ ${{#COMPREPLY[@]}} == 1 && $COMPREPLY == *[=.] ]] && compopt -o nospace
}}
complete -o bashdefault -o default -F _ropewalk_complete python python3 ropewalk torchrun
"""


def bash_completion(own: Path | None) -> str:
    """Returns a script for bash. own: the folder of --config-dir."""
    words = [*FLAGS, CONFIG_DIR]
    words += [f"{group}={name}" for group, names in groups(own).items() for name in names]
    for key in known_keys():
        hint = hint_at(key.split("."))
        if is_section(hint):
            continue
        known = ("true", "false") if hint is bool else choices(hint)
        if "NAME" in key:
            words.append(key.partition("NAME")[0])
        elif known and not is_path(key):
            words += [f"{key}={choice}" for choice in known if choice]
        else:
            words.append(f"{key}=")
    return _SCRIPT.format(words="\n".join(sorted(set(words)))).lstrip()
