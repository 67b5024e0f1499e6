#!/bin/sh
# Brings what a build needs and the machine lacks into .venv, from PyPI; needs no root.
#   tools/setup.sh          cmake, ONNX Runtime, ffmpeg, numpy, h5py
#   tools/setup.sh --test   also what tests and benches compare against (MediaPipe, OpenCV, ...)
# A stamp holds the hash of what was installed, so a call with nothing to do returns at once.
set -eu
cd "$(dirname "$0")/.."

die() {
    echo "setup: $*" >&2
    exit 1
}

case "${1-}" in
"") wanted="requirements" ;;
--test) wanted="requirements requirements-test" ;;
*) die "unknown argument '$1' (only --test is known)" ;;
esac

# Hash of a requirements file, of this script, and of the place: an environment cannot be moved.
fingerprint() {
    { pwd; cat "tools/$1.txt" tools/setup.sh; } | sha256sum
}

is_current() {
    [ -x .venv/bin/python ] && [ "$(cat ".venv/$1.stamp" 2>/dev/null)" = "$(fingerprint "$1")" ]
}

all_current() {
    for name in $wanted; do is_current "$name" || return 1; done
}

# Debian splits ensurepip into python3-venv; without it the system's pip fills the environment.
make_venv() {
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
        die "Python 3.11 or newer is needed: on Debian, 'apt-get install python3 python3-venv'"
    rm -rf .venv
    if python3 -c 'import ensurepip' 2>/dev/null; then
        python3 -m venv .venv
    elif python3 -m pip --version >/dev/null 2>&1; then
        python3 -m venv --without-pip .venv
        python3 -m pip -q --disable-pip-version-check --python .venv/bin/python install pip
    else
        die "python3 has neither venv nor pip: on Debian, 'apt-get install python3-venv'"
    fi
}

install() {
    echo "setup: installing tools/$1.txt into .venv" >&2
    rm -f ".venv/$1.stamp"
    .venv/bin/python -m pip -q --disable-pip-version-check install $2 -r "tools/$1.txt" ||
        die "pip could not install tools/$1.txt (see above)"
}

all_current && exit 0

# Two builds may start at once: the second waits, then finds nothing left to do.
exec 9>tools/.setup.lock
flock 9
{ grep -qF "$PWD/.venv" .venv/pyvenv.cfg && .venv/bin/python -c ''; } 2>/dev/null || make_venv
for name in $wanted; do
    is_current "$name" && continue
    case $name in
    requirements)
        install "$name" ""
        ffmpeg=$(.venv/bin/python -c 'import imageio_ffmpeg; print(imageio_ffmpeg.get_ffmpeg_exe())')
        ln -sf "$ffmpeg" .venv/bin/ffmpeg
        .venv/bin/ffmpeg -version >/dev/null || die "$ffmpeg does not run on this machine"
        ;;
    requirements-test)
        install "$name" --no-deps # a complete list: see the note at its top
        ;;
    esac
    fingerprint "$name" >".venv/$name.stamp"
done
