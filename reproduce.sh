#!/usr/bin/env bash
# Set up everything and run a study, its tests, or JupyterLab. Start here: ./reproduce.sh
set -euo pipefail
# what would lead elsewhere, or bring another Python's packages, or leave out assertions
unset CDPATH PYTHONHOME PYTHONPATH PYTHONSTARTUP PYTHONOPTIMIZE PYTHONWARNINGS JUPYTER_PATH
unset PIP_USER PIP_TARGET PIP_PREFIX
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
[ -d "${TMPDIR:-/tmp}" ] || unset TMPDIR
ENV="$PWD/.venv"
export PYTHONUTF8=1 # whatever the locale

usage() {
    cat <<'END'
./reproduce.sh [STUDY] [WORKFLOW OPTIONS]   set up, then run a study of notebooks/configs (default: pocket)
./reproduce.sh plan STUDY [--gpus N --gpu CARD]   set up, then say what it costs: hours, memory, disk, dollars
./reproduce.sh tables STUDY                 set up, then make its tables and figures anew from its recorded runs, and compare
./reproduce.sh report STUDY                 set up, then write a study as one page that works offline: results/STUDY/report.html
./reproduce.sh test [PYTEST OPTIONS]        set up, then run all tests, then all notebooks
./reproduce.sh lab [JUPYTER OPTIONS]        set up, then open JupyterLab
./reproduce.sh lock                         renew environment.lock from environment.yml
./reproduce.sh --help                       this text

Workflow options go to Snakemake as they are, for example
  --dry-run             show what would run, and why, without running it
  --cores 8             use eight cores (default: all); --config threads=4 gives each job four
  --fetch               (alone) get models and data beforehand, for machines without a network
  --keep-going          go on with independent jobs after a failure
A run that was interrupted or killed goes on from where it was: start it again.

Environment variables
  VD_ENV=venv           use a plain venv although conda, mamba or micromamba is installed
  VD_CACHE=FOLDER       converted models and trained judges (default: ~/.cache/value-drifts)
  VD_RESULTS=FOLDER, VD_FIGURES=FOLDER      in place of results/ and figures/
  VD_DATA_DIR=FOLDER    a local mirror of public data sets, in place of the hub
  VD_REPORT_TO=tensorboard   also send training metrics there, or to trackio, wandb, ... (install it into .venv first)
END
}

say() { printf '\n== %s\n' "$*"; }

stop() {
    echo "./reproduce.sh: $*; ./reproduce.sh --help says more" >&2
    exit 2
}

case "$PWD" in # neither an environment nor PATH can hold them
    *:* | *$'\n'*) stop "move this checkout to a folder without ':' in its path" ;;
esac

check() { # $1: a study; before set-up, which takes minutes
    local configs="${VD_CONFIGS:-notebooks/configs}"
    configs="${configs/#\~/${HOME:-}}"
    case "$1" in
        */* | *.yaml) stop "write the name of the study alone, such as $(basename "$1" .yaml)" ;;
    esac
    [ -f "$configs/$1.yaml" ] && return
    configs=$(cd "$configs" && echo *.yaml)
    stop "no study and no command '$1'; studies are ${configs//.yaml/}"
}

find_python() { # Python 3.11, or the newest that the pins support
    for name in python3.11 python3.13 python3.12 python3; do
        if "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    return 1
}

install_python() { # only where there is none, or none that can make a venv
    local sudo=""
    [ "$(id -u)" = 0 ] || sudo=sudo
    if command -v apt-get >/dev/null; then
        $sudo apt-get update && $sudo apt-get install -y python3 python3-venv
    elif command -v brew >/dev/null; then
        brew install python@3.11
    fi
}

choose_torch() { # the CPU build is 200 MB, the CUDA build several GB
    if command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then
        echo "PyTorch: CUDA build, because $(nvidia-smi -L | head -n 1)"
    elif [ "$(uname)" != Linux ]; then
        echo "PyTorch: the build for $(uname)"
    elif curl -fsI --max-time 10 https://download.pytorch.org/whl/cpu/torch/ >/dev/null 2>&1; then
        echo "PyTorch: CPU build, because there is no NVIDIA GPU"
        PIP_EXTRA_INDEX_URL="${PIP_EXTRA_INDEX_URL:-} https://download.pytorch.org/whl/cpu"
        export PIP_EXTRA_INDEX_URL
    else
        echo "PyTorch: no NVIDIA GPU, and PyTorch's CPU index is out of reach; taking the build that pip finds"
    fi
}

make_venv() { # $1: where; $2: lock, to resolve versions anew
    local python
    if ! python=$(find_python) || ! "$python" -c 'import ensurepip' 2>/dev/null; then
        install_python || true
        python=$(find_python) || { echo "No Python 3.11 to 3.13 found: install one, or conda, and run this again." >&2; exit 1; }
    fi
    echo "venv with $("$python" --version) from $python"
    "$python" -m venv --clear "$1"
    choose_torch
    local lock=(--constraint environment.lock) pins
    local package=.
    [ "${2:-}" != lock ] || { lock=() package=".[capability]"; } # the lock holds what is optional as well
    pins=$(sed -n 's/^ \{6\}- \([A-Za-z0-9._-]*==[^ ]*\).*/\1/p' environment.yml)
    # shellcheck disable=SC2086 # a pin is a word
    "$1/bin/python" -m pip install --quiet --disable-pip-version-check \
        ${lock[@]+"${lock[@]}"} --editable "$package" $pins
}

make_conda() { # $1: conda, mamba or micromamba
    echo "environment.yml with $1"
    choose_torch
    rm -rf "$ENV"
    if [ "$1" = micromamba ]; then
        micromamba create --yes --prefix "$ENV" --file environment.yml
    else
        "$1" env create --yes --prefix "$ENV" --file environment.yml
    fi
}

wait_for_setup() { # the lock on descriptor 9 ends when all processes that inherit it have ended
    local python
    python=$(find_python) || return 0
    "$python" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)' 2>/dev/null && return
    say "Waiting for another set-up of $ENV"
    "$python" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)' || true # where there are locks
}

ready() { # $1: what it was set up from; the Python may be gone, or another machine's
    [ "$(cat "$ENV/.ready" 2>/dev/null)" = "$1" ] || return
    "$ENV/bin/python" -c 'import psutil' 2>/dev/null
}

setup() {
    local state tool=""
    state="$(cat environment.yml environment.lock pyproject.toml | cksum) $PWD"
    if ! ready "$state"; then
        [ -w . ] || stop "$PWD cannot be written to, and the environment is to be set up there"
        exec 9>.setup.lock
        wait_for_setup
    fi
    if ! ready "$state"; then
        say "Setting up $ENV (once; 3 to 10 minutes)"
        for tool in micromamba mamba conda ""; do
            [ "${VD_ENV:-}" != venv ] && [ -n "$tool" ] && command -v "$tool" >/dev/null && break
        done
        if [ -n "$tool" ]; then make_conda "$tool"; else make_venv "$ENV"; fi
        mkdir -p "$ENV/ipython/profile_default" # kernels on this machine need no warning about unencrypted TCP
        echo "get_config().Application.log_level = 40" >"$ENV/ipython/profile_default/ipython_kernel_config.py"
        echo "$state" >"$ENV/.ready"
    fi
    exec 9>&-
    export PATH="$ENV/bin:$PATH" PYTHONNOUSERSITE=1
    export IPYTHONDIR="$ENV/ipython" JUPYTER_PREFER_ENV_PATH=1 # this environment's kernel, not the user's
}

case "${1:-}" in
    -h | --help) usage ;;
    lock)
        tmp=$(mktemp -d)
        make_venv "$tmp/venv" lock
        {
            echo "# All packages of the environment, made by ./reproduce.sh lock from environment.yml; do not edit."
            "$tmp/venv/bin/python" -m pip freeze --exclude-editable | sed 's/+cpu$//'
        } >"$tmp/lock"
        mv "$tmp/lock" environment.lock
        rm -rf "$tmp"
        ;;
    test)
        shift
        setup
        say "Tests"
        tested=$(mktemp -d)
        trap 'rm -rf "$tested"' EXIT
        VD_TESTED_SMOKE=$tested/smoke python -m pytest tests --numprocesses 2 --dist loadfile "$@"
        say "Notebooks, on the study smoke"
        for place in "$tested"/smoke/*/; do # which tests have run already, if they were asked to
            [ ! -d "${place}results" ] || export VD_RESULTS="${place}results" VD_FIGURES="${place}figures"
        done
        copies=$tested/notebooks
        mkdir "$copies"
        python tests/notebooks_at_smoke.py "$copies"
        VD_PROGRESS=/dev/null python -m pytest "$copies" -c pyproject.toml --nbval-lax --nbval-current-env
        ;;
    plan)
        [ $# -ge 2 ] || stop "plan takes a study"
        check "$2"
        shift
        setup
        exec python -m vd "$@" --plan
        ;;
    tables | report)
        [ $# = 2 ] || stop "$1 takes one study"
        check "$2"
        setup
        exec python -m vd "$2" "--$1"
        ;;
    lab)
        shift
        setup
        # vd first: it finds a home folder that can be written to
        exec python -c 'import vd, jupyterlab.labapp as lab; lab.main()' \
            --ServerApp.root_dir="$PWD" --LabApp.default_url=/lab/tree/notebooks/00_start.ipynb "$@"
        ;;
    "" | -*)
        check pocket
        setup
        exec python -m vd.workflow.launch pocket "$@"
        ;;
    *)
        check "$1"
        setup
        [ "${2:-}" != --fetch ] || exec python -m vd "$1" --fetch
        exec python -m vd.workflow.launch "$@"
        ;;
esac
