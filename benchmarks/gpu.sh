#!/usr/bin/env bash
# Measures everything on a machine with a GPU, PyTorch and JAX, and no network.
#
#   benchmarks/gpu.sh wheels [REQUIREMENT...]   with network: collects what is missing there
#   benchmarks/gpu.sh install                   there: installs it, without network
#   benchmarks/gpu.sh chunks                    shows the chunks, most important first
#   benchmarks/gpu.sh CHUNK...                  measures; each takes less than ten minutes
#   benchmarks/gpu.sh all                       measures every chunk
#
# A chunk can be repeated: it replaces what it measured before. Figures are in
# benchmarks/results, and beside it in $OUT where that is set. What a machine
# left there goes into the page with `python -m benchmarks --page`.
#
#   PYTHON    the interpreter that has PyTorch and JAX (python3)
#   WHEELS    folder of what is carried (.whl)
#   SMALL=1   sizes that a processor can take, to try the path; figures go to $OUT
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
WHEELS=${WHEELS:-.whl}
MOST=60m  # of one file that is carried

# chunk: backend, seconds a case, cases
chunks() {
    cat <<'END'
torch-launches  torch       1  gpu/launches/*
jax-launches    jax         1  gpu/launches/*
torch-update    torch      20  gpu/update/*
torch-step      torch      60  gpu/step/*
jax-update      jax        20  gpu/update/*
jax-step        jax        60  gpu/step/*
torch-drift     torch      10  gpu/drift/bandwidth/* gpu/drift/leaves/* gpu/drift/share/* gpu/drift/waits
jax-drift       jax        10  gpu/drift/bandwidth/* gpu/drift/leaves/* gpu/drift/share/*
torch-freeze    torch      30  gpu/freeze/* freeze
jax-freeze      jax        30  gpu/freeze/* freeze
torch-memory    torch      10  gpu/drift/memory/*
jax-memory      jax        10  gpu/drift/memory/*
tf-launches     tensorflow  1  gpu/launches/*
tf-update       tensorflow 20  gpu/update/*
tf-step         tensorflow 60  gpu/step/*
tf-drift        tensorflow 10  gpu/drift/bandwidth/* gpu/drift/leaves/* gpu/drift/share/*
tf-freeze       tensorflow 30  gpu/freeze/* freeze
tf-memory       tensorflow 10  gpu/drift/memory/*
torch-quick     torch       3  step/small/* step/dense/* step/transformer/* scale/weights/*
jax-quick       jax         3  step/small/* step/dense/* step/transformer/* scale/weights/*
END
}

# The machine's Python may be another than this one: PYTHON_VERSION, PLATFORMS.
wheels() {
    local platforms=() platform file
    if [ $# -eq 0 ]; then set -- keras tensorboard rich h5py; fi
    for platform in ${PLATFORMS:-manylinux_2_28_x86_64 manylinux_2_27_x86_64 manylinux_2_17_x86_64 manylinux2014_x86_64}; do
        platforms+=(--platform "$platform")
    done
    mkdir -p "$WHEELS"
    "$PYTHON" -m pip download -q -d "$WHEELS" --only-binary=:all: \
        --python-version "${PYTHON_VERSION:-3.12}" "${platforms[@]}" \
        "$@"
    for file in $(find "$WHEELS" -name '*.whl' -size +"$((${MOST%m} * 1024))k"); do
        split -b "$MOST" -d "$file" "$file.part-"
        rm "$file"
    done
    du -ch "$WHEELS"/* | tail -n 1
}

install() {
    local part names=(keras tensorboard rich h5py) tensorflow=tensorflow
    for part in $(find "$WHEELS" -name '*.part-00'); do
        cat "${part%00}"* > "${part%.part-00}"
    done
    "$PYTHON" -m pip install -q --no-index --find-links "$WHEELS" "${names[@]}"
    # TensorFlow, if it is carried, goes to a folder: its CUDA must not replace PyTorch's.
    if compgen -G "$WHEELS/tensorflow-*.whl" > /dev/null; then
        if compgen -G "$WHEELS/nvidia_*.whl" > /dev/null; then tensorflow='tensorflow[and-cuda]'; fi
        "$PYTHON" -m pip install -q --no-index --find-links "$WHEELS" --upgrade \
            --target "$WHEELS/tensorflow" "${names[@]}" "$tensorflow"
    fi
}

measure() {
    local name backend seconds cases path failed=()
    for name in "$@"; do
        read -r _ backend seconds cases < <(chunks | grep "^$name ") ||
            { echo "no chunk $name; the chunks are: $(chunks | cut -d' ' -f1 | xargs)"; exit 2; }
        path=${PYTHONPATH:-}
        if [ "$backend" = tensorflow ] && [ -d "$WHEELS/tensorflow" ]; then
            path=$(realpath "$WHEELS/tensorflow")${path:+:$path}
        fi
        if ! PYTHONPATH=$path "$PYTHON" -c "import $backend" 2> /dev/null; then
            echo "$name: $backend is not installed; left out"
            continue
        fi
        read -ra cases <<< "$cases"
        local options=(--seconds "$seconds")
        if [ -n "${SMALL:-}" ]; then options=(--seconds 0.2 --small --output "$OUT"); fi
        # Each chunk has the whole device: what another framework reserves is not there.
        KERAS_BACKEND=$backend PYTHONPATH=$path XLA_PYTHON_CLIENT_PREALLOCATE=false \
            TF_FORCE_GPU_ALLOW_GROWTH=true PYTHONUNBUFFERED=1 \
            timeout 590 "$PYTHON" -m benchmarks "${options[@]}" "${cases[@]}" || failed+=("$name")
        if [ -n "${OUT:-}" ] && [ -z "${SMALL:-}" ]; then cp benchmarks/results/*.json "$OUT"; fi
    done
    if [ ${#failed[@]} -gt 0 ]; then echo "failed: ${failed[*]}"; exit 1; fi
}

case "${1:-}" in
    wheels) wheels "${@:2}" ;;
    install) install ;;
    chunks) chunks ;;
    all) measure $(chunks | cut -d' ' -f1) ;;
    '') sed -n '2,/^set/p' "$0" | sed '$d;s/^# \{0,1\}//' ;;
    *) measure "$@" ;;
esac
