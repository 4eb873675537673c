#!/usr/bin/env bash
# Build the wheel, install it into a clean environment from the lock files, and run the smoke study
# in a folder that holds the notebooks and records of the project but not its library.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
locked() { "$folder/venv/bin/pip" install --quiet --disable-pip-version-check --require-hashes --no-deps "$@"; }
locked -r locks/build.txt
locked -r locks/torch-cpu.txt 2>/dev/null || locked -r locks/torch.txt
locked --no-build-isolation -r locks/rest.txt
mkdir "$folder/source" "$folder/project"
cp -r pyproject.toml README.md LICENSE infra_lib "$folder/source"   # setuptools leaves a build folder behind
"$folder/venv/bin/pip" wheel --quiet --no-deps --no-build-isolation -w "$folder/dist" "$folder/source"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps "$folder"/dist/*.whl
"$folder/venv/bin/pip" check
cp -r notebooks records workflow README.md CHANGELOG.md _config.yml "$folder/project"
cd "$folder/project"
unset PYTHONPATH
export INFRA_PROJECT=$PWD PATH=$folder/venv/bin:$PATH
python -c 'import infra_lib, sys; assert infra_lib.__file__.startswith(sys.prefix), infra_lib.__file__'
infra run --study smoke
echo "the wheel runs the smoke study"
