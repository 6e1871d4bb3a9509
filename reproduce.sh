#!/usr/bin/env bash
# Set up everything and run a study, its tests, or JupyterLab. Start here: ./reproduce.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
ENV="$PWD/.venv"

usage() {
    cat <<'END'
./reproduce.sh [STUDY] [WORKFLOW OPTIONS]   set up, then run a study of notebooks/configs (default: pocket)
./reproduce.sh test [PYTEST OPTIONS]        set up, then run all tests, then all notebooks
./reproduce.sh lab                          set up, then open JupyterLab
./reproduce.sh lock                         renew environment.lock from environment.yml
./reproduce.sh --help                       this text

Workflow options go to Snakemake as they are, for example
  --dry-run             show what would run, and why, without running it
  --cores 8             use eight cores (default: all); --config threads=4 gives each job four
  --keep-going          go on with independent jobs after a failure

Environment variables
  VD_ENV=venv           use a plain venv although conda, mamba or micromamba is installed
  VD_CACHE=FOLDER       converted models and trained judges (default: ~/.cache/value-drifts)
  VD_RESULTS=FOLDER, VD_FIGURES=FOLDER      in place of results/ and figures/
  VD_DATA_DIR=FOLDER    a local mirror of public data sets, in place of the hub
END
}

say() { printf '\n== %s\n' "$*"; }

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

requirements() { # the pip section of environment.yml as a requirements file; $1 = lock to leave out the lock
    sed -n '/- pip:/,$ s/^ \{6\}- //p' environment.yml |
        { if [ "${1:-}" = lock ]; then grep -v -e --constraint; else sed "s|=environment.lock|=$PWD/environment.lock|"; fi; } |
        sed "s|--editable=.|--editable=$PWD|"
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
    requirements "${2:-}" >"$1/requirements.txt"
    "$1/bin/pip" install --quiet --disable-pip-version-check -r "$1/requirements.txt"
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

setup() {
    local state tool=""
    state=$(cat environment.yml environment.lock pyproject.toml | cksum)
    if [ "$(cat "$ENV/.ready" 2>/dev/null)" != "$state $PWD" ]; then
        say "Setting up $ENV (once; 3 to 10 minutes)"
        for tool in micromamba mamba conda ""; do
            [ "${VD_ENV:-}" != venv ] && [ -n "$tool" ] && command -v "$tool" >/dev/null && break
        done
        if [ -n "$tool" ]; then make_conda "$tool"; else make_venv "$ENV"; fi
        mkdir -p "$ENV/ipython/profile_default" # kernels on this machine need no warning about unencrypted TCP
        echo "get_config().Application.log_level = 40" >"$ENV/ipython/profile_default/ipython_kernel_config.py"
        echo "$state $PWD" >"$ENV/.ready"
    fi
    export PATH="$ENV/bin:$PATH" PYTHONNOUSERSITE=1
    export IPYTHONDIR="$ENV/ipython" JUPYTER_PREFER_ENV_PATH=1 # this environment's kernel, not the user's
}

run_study() {
    export VD_STUDY="$1"
    shift
    say "Study $VD_STUDY"
    python -m vd "$VD_STUDY"
    case " $* " in
        *" --dry-run "* | *" -n "*)
            exec snakemake --snakefile notebooks/Snakefile --quiet host --cores all "$@" ;;
    esac
    python -m vd "$VD_STUDY" --check-data
    local limit=()
    if nvidia-smi -L >/dev/null 2>&1; then limit=(--resources gpu=1); fi # one model at a time on the GPU
    VD_PROGRESS="$(mktemp)"
    export VD_PROGRESS
    tail -n 0 -F "$VD_PROGRESS" 2>/dev/null &
    trap 'kill %1 2>/dev/null; rm -f "$VD_PROGRESS"' EXIT
    snakemake --snakefile notebooks/Snakefile --rerun-incomplete --quiet rules host ${limit[@]+"${limit[@]}"} --cores all "$@" 2>&1 |
        { grep --line-buffered -vE '^(Select jobs|Execute [0-9]+ jobs|Finished jobid|\[.* 20[0-9]{2}\]$|$)' || true; }
    say "Done in $((SECONDS / 60)) min $((SECONDS % 60)) s"
    python -m vd "$VD_STUDY" --where
}

case "${1:-}" in
    -h | --help) usage ;;
    lock)
        tmp=$(mktemp -d)
        make_venv "$tmp/venv" lock
        {
            echo "# All packages of the environment, made by ./reproduce.sh lock from environment.yml; do not edit."
            "$tmp/venv/bin/pip" freeze --exclude-editable | sed 's/+cpu$//'
        } >"$tmp/lock"
        mv "$tmp/lock" environment.lock
        rm -rf "$tmp"
        ;;
    test)
        shift
        setup
        say "Tests"
        python -m pytest tests --numprocesses 2 --dist loadfile "$@"
        say "Notebooks"
        python -m pytest notebooks --nbval-lax --nbval-current-env
        ;;
    lab)
        setup
        exec jupyter lab notebooks
        ;;
    "" | -*)
        setup
        run_study pocket "$@"
        ;;
    *)
        setup
        run_study "$@"
        ;;
esac
