# Sourced by scripts/demo and scripts/test: make .venv and install Sidar for the purpose $1 (`demo` needs no extras).
# A torch that is already in .venv stays (a CUDA build, say); otherwise the tested CPU build is pinned by constraints.txt.
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "Sidar needs Python 3.11 or newer; set PYTHON=/path/to/python3.11" >&2
  exit 2
}
[ -x .venv/bin/python ] || "$python" -m venv .venv

what=. && [ "$1" = test ] && what='.[test]'
stamp=.venv/.sidar-installed-$1
wanted=$(cat pyproject.toml constraints.txt | cksum)
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
  constraints=constraints.txt
  if .venv/bin/python -c 'import torch' 2>/dev/null; then
    constraints=.venv/constraints-keep-torch.txt
    grep -v '^torch==' constraints.txt >"$constraints"
  fi
  echo "Installing Sidar into .venv (a few minutes the first time) …"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -c "$constraints" -e "$what"
  echo "$wanted" >"$stamp"
fi
