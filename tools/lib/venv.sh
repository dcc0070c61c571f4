# Sourced by the scripts in tools/: a virtual environment in .venv inside the checkout.
# Expects $root, the absolute path of the checkout. Works with bash 3.2 and later.
# shellcheck shell=bash

say() {
    printf '%s\n' "-- $*"
}

fail() {
    printf '%s\n' "${0##*/}: $*" >&2
    exit 1
}

is_supported_python() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

# Prints the interpreter to use. One that was asked for by name is used or refused, never replaced by another.
find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        is_supported_python "$PYTHON" || fail "PYTHON=$PYTHON is not a Python 3.11 or later that runs."
        printf '%s\n' "$PYTHON"
        return
    fi
    for candidate in python3 python3.13 python3.12 python3.11; do
        if is_supported_python "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    fail "needs Python 3.11 or later: none of python3, python3.13, python3.12, python3.11 on PATH is one. Set PYTHON to its path."
}

# venv_install NAME PIP-ARGUMENT…: brings .venv to the state that pip makes of the arguments, and puts it on PATH. NAME
# tells apart the stamps of scripts that install different things; pip runs again only when pyproject.toml, the
# arguments, the interpreter or the place of the checkout changed.
venv_install() {
    local name=$1 venv="$root/.venv" python identity wanted
    shift
    python=$(find_python) || exit 1
    identity="$root $("$python" -c 'import sys; print(sys.base_prefix, sys.version)')"
    if [ ! -x "$venv/bin/python" ] || [ "$identity" != "$(cat "$venv/stamp-python" 2>/dev/null)" ]; then
        say "making .venv with $("$python" --version)"
        "$python" -m venv --clear "$venv" || fail "could not make a virtual environment; Debian has it in the package python3-venv."
        printf '%s\n' "$identity" >"$venv/stamp-python"
    fi
    wanted="$* $(cksum <"$root/pyproject.toml")"
    if [ "$wanted" != "$(cat "$venv/stamp-$name" 2>/dev/null)" ]; then
        say "installing into .venv: pip install $*"
        export PIP_DISABLE_PIP_VERSION_CHECK=1
        # --group came with pip 25.1.
        (cd "$root" && "$venv/bin/python" -m pip install --quiet --quiet --upgrade 'pip>=25.1' &&
            "$venv/bin/python" -m pip install --quiet --quiet "$@") || fail "pip could not install what is needed."
        printf '%s\n' "$wanted" >"$venv/stamp-$name"
    fi
    PATH="$venv/bin:$PATH"
}
