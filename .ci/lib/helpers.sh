# shellcheck shell=bash
# What the phases are made of. `work` is a directory that the run removes at its end.

suite_limit=25m # one run of the tests; far above what it takes, far below for ever
absent_status=77 # of a phase that cannot run on this machine; as automake's skipped tests
twice_status=78 # of a phase that passed but for tests in .ci/known-flaky

# run_phase NAME TITLE COMMAND: runs it in a subshell with its own `set -e`, keeps its output and its time.
run_phase() {
  local name=$1 title=$2 started=$SECONDS status word
  local -a command
  read -ra command <<<"$3"
  printf '\n=== %s: %s\n' "$name" "$title"
  set +e
  (
    set -euo pipefail
    "${command[@]}"
  ) 2>&1 | tee "$work/$name.log"
  status=${PIPESTATUS[0]}
  set -e
  case $status in
    0) word=ok ;;
    "$absent_status") word=absent ;;
    "$twice_status") word=twice ;;
    *) word=FAILED ;;
  esac
  printf '=== %s: %s after %d s (exit %d)\n' "$name" "$word" $((SECONDS - started)) "$status"
  results+=("$word"$'\t'$((SECONDS - started))$'\t'"$name")
}

# The table, and the number of tests in a form that programs read; fails if a phase has failed.
summary() {
  local failed=0 result word seconds name line
  local -a closing=()
  printf '\n=== summary: %d min %d s\n' $((SECONDS / 60)) $((SECONDS % 60))
  for result in "${results[@]}"; do
    IFS=$'\t' read -r word seconds name <<<"$result"
    line=$(sed '/^Run once more/q' "$work/$name.log" | grep -E '^=+ .*(passed|failed|error|skipped|no tests ran).* in [0-9.]+s' | tail -n 1 | tr -d '=' || true)
    if [ -n "$line" ]; then closing+=("$line"); fi
    # A suite that ran nothing has shown nothing.
    if [[ $name == *tests* && $word != absent && ! $line =~ [0-9]+\ passed ]]; then word=FAILED; fi
    if [ "$word" = FAILED ]; then failed=$((failed + 1)); fi
    printf '%-7s %5d s  %s%s\n' "$word" "$seconds" "$name" "${line:+:$line}"
  done
  printf '%s\n' "${closing[@]}" | awk -v phases=${#results[@]} -v broken="$failed" '
    {
      for (i = 2; i <= NF; i++) {
        word = $i; sub(/,$/, "", word); sub(/s$/, "", word)
        if ($(i - 1) ~ /^[0-9]+$/) count[word] += $(i - 1)
      }
    }
    END {
      printf "%d phases, %d failed; tests in all suites: %d passed, %d failed, %d errors, %d skipped\n",
        phases, broken, count["passed"], count["failed"], count["error"], count["skipped"]
    }'
  [ "$failed" -eq 0 ]
}

absent() {
  echo "ABSENT: $1"
  return "$absent_status"
}

retry() {
  local attempt
  for attempt in 1 2 3; do
    if "$@"; then return 0; fi
    echo "attempt $attempt failed: $*" >&2
    sleep $((attempt * 5)) # a mirror needs a moment
  done
  return 1
}

# find_python 3.13: prints an interpreter of that version, from PATH or from pyenv. Shims that lead nowhere do not count.
find_python() {
  local candidate pyenv_root
  pyenv_root=$(pyenv root 2>/dev/null || echo "${PYENV_ROOT:-${HOME:-/nonexistent}/.pyenv}")
  for candidate in python3 "python$1" "$pyenv_root/versions/$1".*/bin/python "${HOME:-/nonexistent}/.pyenv/versions/$1".*/bin/python; do
    if "$candidate" -c "import sys, venv, ensurepip; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" 2>/dev/null; then
      echo "$candidate"
      return 0
    fi
  done
  return 1
}

# environment NAME PYTHON REQUIREMENT...: makes $work/NAME, unless an earlier phase has made it.
environment() {
  if [ -e "$work/$1.complete" ]; then return 0; fi
  "$2" -m venv --clear "$work/$1"
  retry "$work/$1/bin/python" -m pip install -q "${@:3}"
  "$work/$1/bin/python" -m pip list 2>/dev/null | grep -iE '^(anyio|coverage|pytest|roket-trio|trio|uvloop) ' || true
  touch "$work/$1.complete"
}

# The checkout, installed with every extra: for lint, docs, types and the gate.
tools() { environment tools python3 -e '.[bench,cli,dev,docs,test]'; }

# The wheel and the sdist, built once: sets `wheel`.
distributions() {
  if ! compgen -G "$work/dist/*.whl" >/dev/null; then
    environment build python3 'build>=1.2'
    retry "$work/build/bin/python" -m build --outdir "$work/dist" . # the wheel is built from the sdist
  fi
  wheel=$(echo "$work"/dist/*.whl)
}

# suite NAME PYTHON [REQUIREMENT...] -- COMMAND...: the tests of the unpacked sdist, with the wheel as the only
# roket_trio in reach; COMMAND is what the environment's python is given.
suite() {
  local name=$1 python=$2
  local -a requirements=()
  shift 2
  while [ "$1" != -- ]; do
    requirements+=("$1")
    shift
  done
  shift
  distributions
  environment "$name" "$python" "${wheel}[test]" "${requirements[@]}"
  mkdir "$work/$name.tree"
  tar -xzf "$work"/dist/*.tar.gz -C "$work/$name.tree" --strip-components=1
  rm -r "$work/$name.tree/roket_trio"
  cd "$work/$name.tree"
  "$work/$name/bin/python" -c "
import pathlib, sys, roket_trio
where = pathlib.Path(roket_trio.__file__).resolve()
print(sys.version, where, sep='\n')
sys.exit(0 if pathlib.Path(sys.prefix).resolve() in where.parents else 'not the installed wheel')"
  again=("$work/$name/bin/python" -m pytest --measured also)
  tests "$work/$name/bin/python" "$@"
}

# tests COMMAND...: runs the tests. What failed is run once more, alone, by the pytest of `again`, to tell what fails now
# and then from what always does. Both are failures, unless .ci/known-flaky names the test and the cause.
tests() {
  local status=0 unknown
  timeout --kill-after=30s "$suite_limit" "$@" || status=$?
  if [ "$status" -ne 1 ]; then return "$status"; fi # 1: tests have failed; others of pytest's: it could not run them
  failed_tests >"$work/failed-at-first"
  printf '\nRun once more, alone: what has failed\n'
  timeout --kill-after=30s "$suite_limit" "${again[@]}" -n 0 --last-failed --last-failed-no-failures none || true
  failed_tests >"$work/failed-again"
  if [ -s "$work/failed-again" ] || [ ! -s "$work/failed-at-first" ]; then return 1; fi
  unknown=$(grep -vxFf <(sed -e 's/ *# .*//' -e '/^$/d' .ci/known-flaky) "$work/failed-at-first" || true)
  if [ -z "$unknown" ]; then return "$twice_status"; fi
  printf '\nFailed at first and passed when run alone; .ci/known-flaky does not name it:\n%s\n' "$unknown"
  return 1
}

# The tests that failed last, as pytest remembers them in this directory.
failed_tests() {
  python3 -c '
import json, pathlib
remembered = pathlib.Path(".pytest_cache/v/cache/lastfailed")
print(*sorted(json.loads(remembered.read_text())) if remembered.exists() else (), sep="\n", end="")
'
}

# copy_of_checkout DIRECTORY: what is committed and what is not yet; no environment, nothing built.
copy_of_checkout() {
  tar -c --exclude=./.git --exclude=./.venv --exclude=./build --exclude=./dist --exclude=__pycache__ \
    --exclude='./.*_cache' --exclude=./.hypothesis . | tar -x -C "$1"
}

# Sets `clean`: what starts a command without any variable of ours, in a home directory that is empty. What pip needs to
# reach its index stays, where it is set.
clean_environment() {
  local name
  clean=(env -i "PATH=$PATH" "LANG=${LANG:-C.UTF-8}" "HOME=$1")
  while read -r name; do
    case ${name,,} in
      pip_* | ssl_cert_file | ssl_cert_dir | requests_ca_bundle | http_proxy | https_proxy | all_proxy | no_proxy)
        clean+=("$name=${!name}")
        ;;
    esac
  done < <(compgen -e)
}
