# Sourced by scripts/demo and scripts/test: make .venv and install Sidar with the extras given as $1.
# A torch that is already in .venv stays (a CUDA build, say); otherwise the tested CPU build is pinned by constraints.txt.
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "Sidar needs Python 3.11 or newer; set PYTHON=/path/to/python3.11" >&2
  exit 2
}
[ -x .venv/bin/python ] || "$python" -m venv .venv

wanted="$1 $(cat pyproject.toml constraints.txt | cksum)"
if [ "$(cat .venv/.sidar-installed 2>/dev/null)" != "$wanted" ]; then
  constraints=constraints.txt
  if .venv/bin/python -c 'import torch' 2>/dev/null; then
    constraints=.venv/constraints-keep-torch.txt
    grep -v '^torch==' constraints.txt >"$constraints"
  fi
  echo "Installing Sidar into .venv (a few minutes the first time) …"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -c "$constraints" -e ".[$1]"
  echo "$wanted" >.venv/.sidar-installed
fi
